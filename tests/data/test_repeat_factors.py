"""Repeat-factor sampling: the closed form of its frequencies, and the exact stream on resuming."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler

from mask2former.data import ResumableSampler, build_train_loader
from mask2former.data.repeat_factors import draw_epoch, epoch_length, repeat_factors

THRESHOLD = 0.2


def unequal(images: int = 500) -> list[set[int]]:
    """Class 0 is in every image, class 1 in one of 50, class 2 in one of 10."""
    return [{0} | ({1} if i % 50 == 7 else set()) | ({2} if i % 10 == 3 else set())
            for i in range(images)]  # fmt: skip


def take(count, **options):
    sampler = ResumableSampler(**{"rank": 0, "world_size": 1, **options})
    return list(islice(iter(sampler), count))


def test_factors_are_those_of_detectron2():
    classes = [*unequal(), set(), {5}]
    records = [{"annotations": [{"category_id": c} for c in sorted(found)]} for found in classes]
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, THRESHOLD
    )
    np.testing.assert_allclose(repeat_factors(classes, THRESHOLD), expected, rtol=1e-6)


def test_the_rare_class_is_as_frequent_as_the_closed_form_says():
    classes = unequal()
    factors = repeat_factors(classes, THRESHOLD)
    # r = sqrt(0.2 / 0.02), sqrt(0.2 / 0.1) and 1 for 10, 50 and the other 440 images
    total = 10 * np.sqrt(10) + 50 * np.sqrt(2) + 440
    length = epoch_length(factors)
    assert length == round(total)
    epochs = 60
    seen = Counter(index for index, _ in take(epochs * length, size=500, seed=3, repeats=factors))
    share = {
        c: sum(n for i, n in seen.items() if c in classes[i]) / (epochs * length) for c in (0, 1, 2)
    }
    assert share[0] == 1
    # Each epoch has a count that differs from the expectation by less than one per image.
    assert share[1] == pytest.approx(10 * np.sqrt(10) / total, rel=0.02)
    assert share[2] == pytest.approx(50 * np.sqrt(2) / total, rel=0.02)
    assert share[1] > 2.7 * 0.02


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_has_each_image_as_often_as_its_factor(seed):
    rng = np.random.default_rng(seed)
    factors = np.where(rng.random(40) < 0.5, 1.0, rng.uniform(1, 6, 40))
    length = epoch_length(factors)
    epochs = [draw_epoch(factors, np.random.default_rng([seed, i])) for i in range(400)]
    expected = factors * length / factors.sum()
    for epoch in epochs:
        assert len(epoch) == length
        counts = np.bincount(epoch, minlength=40)
        assert (np.floor(expected) <= counts).all() and (counts <= np.ceil(expected)).all()
    mean = np.mean([np.bincount(epoch, minlength=40) for epoch in epochs], axis=0)
    np.testing.assert_allclose(mean, expected, atol=4 * 0.5 / np.sqrt(400))
    # The images of an epoch are in random order, not copy after copy.
    rare = int(factors.argmax())
    places = np.concatenate([np.flatnonzero(epoch == rare) for epoch in epochs])
    assert abs(places.mean() - (length - 1) / 2) < 0.05 * length


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 5, 543, 700])
def test_resuming_and_sharing_give_the_same_stream(start, world_size):
    """543 samples are an epoch."""
    options = {"size": 500, "seed": 11, "repeats": repeat_factors(unequal(), THRESHOLD)}
    whole = take(1800, **options)
    ranks = [
        take(300, start=start, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    interleaved = [sample for step in zip(*ranks, strict=True) for sample in step]
    assert interleaved == whole[start : start + 300 * world_size]
    assert len({seed for _, seed in whole}) == len(whole)


@pytest.fixture
def registered():
    """A data set of 100 empty images, one in 50 of which has class 1."""
    name = "test_repeat_factors"
    classes = unequal(100)
    records = [
        {"image_id": i, "annotations": [{"category_id": c} for c in found]}
        for i, found in enumerate(classes)
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["a", "b", "c"])
    yield name, classes
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def image_ids(cfg, steps, start=0):
    loader = build_train_loader(cfg, mapper=lambda record: record, seed=5, start_iter=start)
    return [[sample["image_id"] for sample in batch] for batch in islice(loader, steps)]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_repeats_and_resumes(tiny_cfg, registered, workers):
    name, classes = registered
    tiny_cfg.DATASETS.TRAIN = (name,)
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = THRESHOLD
    tiny_cfg.DATALOADER.NUM_WORKERS = workers
    tiny_cfg.SOLVER.IMS_PER_BATCH = 4
    whole = image_ids(tiny_cfg, 60)
    assert image_ids(tiny_cfg, 20, start=40) == whole[40:]
    seen = np.array(whole).reshape(-1)
    length = epoch_length(repeat_factors(classes, THRESHOLD))
    rare = sum(1 in classes[i] for i in seen[:length])
    assert 6 <= rare <= 8  # two images, 3.2 times each


@pytest.mark.parametrize(
    ("sampler", "threshold", "message"),
    [
        ("RepeatFactorTrainingSampler", 0.0, "need each other"),
        ("TrainingSampler", 0.1, "need each other"),
        ("RandomSubsetTrainingSampler", 0.0, "supports only"),
    ],
)
def test_mistakes(tiny_cfg, registered, sampler, threshold, message):
    tiny_cfg.DATASETS.TRAIN = (registered[0],)
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = sampler
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = threshold
    with pytest.raises(ValueError, match=message):
        image_ids(tiny_cfg, 1)


def test_label_maps_do_not_say_their_classes(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = ("synthetic_shapes_semantic_train",)
    tiny_cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    tiny_cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    tiny_cfg.DATALOADER.REPEAT_THRESHOLD = THRESHOLD
    with pytest.raises(ValueError, match="but label maps do not: set TrainingSampler"):
        build_train_loader(tiny_cfg, seed=1)
