"""The command gives the numbers of the evaluator, and names mistakes in one line."""

import json
import re

import panoptic_sets
import pytest
from panoptic_sets import CATEGORIES, QUALITIES, evaluate

from mask2former.cli.evaluate_panoptic import main
from mask2former.evaluation import PanopticEvaluator


def test_evaluate_panoptic(tmp_path, capsys):
    """The same numbers from what the evaluator wrote, by one process and by two."""
    content = panoptic_sets.make_truth(tmp_path, 0)
    predictions = panoptic_sets.make_predictions(tmp_path, content, 0)
    out = tmp_path / "out"
    name = panoptic_sets.register("test_evaluate_panoptic", tmp_path, content)
    try:
        results = evaluate(PanopticEvaluator(name, out), predictions, content)
    finally:
        panoptic_sets.unregister(name)
    options = ["--truth", str(tmp_path / "panoptic.json")]
    options += ["--results", str(out / "predictions.json")]
    for workers in "12":
        scores = str(tmp_path / "scores.json")
        assert main([*options, "--workers", workers, "--output", scores]) == 0
        written = json.loads((tmp_path / "scores.json").read_text())
        assert written["classes"].keys() == {c["name"] for c in CATEGORIES}
        assert {name: written[name] for name in QUALITIES} == pytest.approx(results["panoptic_seg"])
        assert f"{results['panoptic_seg']['PQ']:.3f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*options, "--workers", "1", "--output", str(tmp_path / "absent/scores.json")])
    assert re.search(r"error: .*No such file or directory", capsys.readouterr().err)

    def fails(match, *more, change=None):
        predicted = json.loads((out / "predictions.json").read_text())
        if change:
            change(predicted["annotations"])
        (out / "changed.json").write_text(json.dumps(predicted))
        files = ["--results", str(out / "changed.json"), "--workers", "1"]
        files += ["--results-folder", str(out / "predictions")]
        with pytest.raises(SystemExit):
            main([*options[:2], *files, *more])
        assert re.search(f"error: .*{match}", capsys.readouterr().err)

    fails("no folder /nowhere", "--truth-folder", "/nowhere")
    fails("no prediction for 1 of 6 images: 10", change=lambda a: a.pop(0))
    fails("1 images that .* does not have: 5", change=lambda a: a.append({**a[0], "image_id": 5}))
    fails(
        r"image 10: category ids \[5\] are not in",
        change=lambda a: a[0]["segments_info"][0].update(category_id=5),
    )
    fails(
        r"000\.png: ids .* not among the predicted segments",
        change=lambda a: a[0]["segments_info"].pop(0),
    )
