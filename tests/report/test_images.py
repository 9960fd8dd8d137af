"""Which images a report shows."""

from mask2former.report.images import best_and_worst


def test_worst_and_best_are_disjoint_and_in_order():
    quality = {f"{i}.jpg": i / 20 for i in range(20)}
    best, worst = best_and_worst(quality, 3)
    assert worst == ["0.jpg", "1.jpg", "2.jpg"]
    assert best == ["19.jpg", "18.jpg", "17.jpg"]


def test_few_images():
    assert best_and_worst({}) == ([], [])
    assert best_and_worst({"a": 1.0}) == ([], ["a"])
    assert best_and_worst({"a": 0.5, "b": 0.5, "c": 0.5}) == (["c"], ["a", "b"])
