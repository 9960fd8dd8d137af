# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import random
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask2former.config import add_maskformer2_config
from mask2former.data import (
    DatasetError,
    ResumableSampler,
    SeededMapDataset,
    build_test_loader,
    build_train_loader,
    register_coco_json,
)
from mask2former.data.loader import seeded
from mask2former.data.preparation.synthetic import generate


def take(sampler, count):
    return list(islice(iter(sampler), count))


@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_every_epoch_is_a_permutation_of_its_own(size):
    indices = [
        index for index, _ in take(ResumableSampler(size, 3, rank=0, world_size=1), 4 * size)
    ]
    epochs = [tuple(indices[i : i + size]) for i in range(0, len(indices), size)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size == 30:
        assert len(set(epochs)) == 4


def test_seeds_differ_between_samples_and_runs():
    samples = take(ResumableSampler(5, 3, rank=0, world_size=1), 500)
    assert len({seed for _, seed in samples}) == 500
    assert samples == take(ResumableSampler(5, 3, rank=0, world_size=1), 500)
    other = take(ResumableSampler(5, 4, rank=0, world_size=1), 500)
    assert [i for i, _ in samples] != [i for i, _ in other]
    assert not {seed for _, seed in samples} & {seed for _, seed in other}


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("start", [0, 1, 6, 7, 23])
def test_resuming_and_sharing_give_the_same_stream(start, world_size):
    whole = take(ResumableSampler(7, 11, rank=0, world_size=1), 100)
    ranks = [
        take(ResumableSampler(7, 11, start=start, rank=rank, world_size=world_size), 8)
        for rank in range(world_size)
    ]
    interleaved = [sample for step in zip(*ranks, strict=True) for sample in step]
    assert interleaved == whole[start : start + 8 * world_size]


@pytest.mark.parametrize("wrong", [{"size": 0}, {"seed": -1}, {"start": -1}])
def test_sampler_rejects_nonsense(wrong):
    with pytest.raises(ValueError):
        ResumableSampler(**{"size": 5, "seed": 0, "start": 0, **wrong})


def draw(_=None):
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_samples_depend_on_their_seed_and_leave_no_trace():
    dataset = SeededMapDataset([10, 20, 30], draw)
    for library_seed in (0, 1):
        random.seed(library_seed)
        np.random.seed(library_seed)
        torch.manual_seed(library_seed)
        expected_next = (random.Random(library_seed).random(),)
        assert dataset[0, 42] == dataset[0, 42] != dataset[0, 43]
        assert draw()[:1] == expected_next
    first = dataset[0, 42]
    assert len(set(first)) == 3
    assert dataset[1, 42] == first, "the seed alone decides"
    assert len(dataset) == 3


def test_all_global_generators_are_restored_after_an_error():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(5):
        draw()
        raise RuntimeError
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])


def test_skipped_elements_are_replaced_by_the_same_ones_each_time():
    dataset = SeededMapDataset(list(range(50)), lambda x: x if x % 5 == 0 else None)
    replaced = [dataset[3, seed] for seed in range(40)]
    assert replaced == [dataset[3, seed] for seed in range(40)]
    assert len(set(replaced)) > 3 and all(x % 5 == 0 for x in replaced)
    with pytest.raises(DatasetError, match="100 images in a row"):
        SeededMapDataset([1, 2], lambda x: None)[0, 1]


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    folder = generate(
        tmp_path_factory.mktemp("loader") / "set", train=10, val=3, size=64, progress=False
    )
    names = {}
    for split in ("train", "val"):
        names[split] = f"test_loader_{split}"
        register_coco_json(
            names[split],
            str(folder / "annotations" / f"instances_{split}.json"),
            str(folder / split),
        )
    yield names
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(registered):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.INPUT.DATASET_MAPPER_NAME = "coco_instance_lsj"
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.IMAGE_SIZE = 64
    cfg.DATASETS.TRAIN = (registered["train"],)
    cfg.DATASETS.TEST = (registered["val"],)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


def batches(cfg, count, **kwargs):
    return list(islice(iter(build_train_loader(cfg, seed=5, **kwargs)), count))


def same(batch, other):
    return len(batch) == len(other) and all(
        a["image_id"] == b["image_id"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(a["instances"].gt_masks.tensor, b["instances"].gt_masks.tensor)
        and torch.equal(a["padding_mask"], b["padding_mask"])
        for a, b in zip(batch, other, strict=True)
    )


@pytest.mark.parametrize(("accumulate", "workers"), [(1, 0), (3, 0), (1, 2)])
def test_a_resumed_loader_continues_the_stream(cfg, accumulate, workers):
    whole = batches(cfg, 9)
    assert not same(whole[0], whole[1])
    cfg.SOLVER.ACCUMULATE_STEPS = accumulate
    cfg.DATALOADER.NUM_WORKERS = workers
    resumed = batches(cfg, 9 - 2 * accumulate, start_iter=2)
    assert all(map(same, resumed, whole[2 * accumulate :]))


def test_loading_does_not_touch_the_global_generators(cfg):
    torch.manual_seed(0)
    np.random.seed(0)
    expected = draw()[1:]
    torch.manual_seed(0)
    np.random.seed(0)
    batches(cfg, 2)
    assert draw()[1:] == expected


def test_another_seed_gives_another_stream(cfg):
    one = next(iter(build_train_loader(cfg, seed=1)))
    two = next(iter(build_train_loader(cfg, seed=2)))
    assert not same(one, two)


def test_a_custom_mapper(cfg):
    loader = build_train_loader(cfg, seed=0, mapper=lambda d: d["image_id"])
    ids = [i for batch in islice(iter(loader), 5) for i in batch]
    assert len(ids) == 20 and set(ids) == set(range(1, 11))


def test_empty_images_stay_where_the_config_says_so(cfg, registered, tmp_path):
    name = "test_loader_empty"
    full = DatasetCatalog.get(registered["train"])
    crowd = {**full[2], "annotations": [{**full[2]["annotations"][0], "iscrowd": 1}]}
    DatasetCatalog.register(name, lambda: [full[0], {**full[1], "annotations": []}, crowd])
    try:
        cfg.DATASETS.TRAIN = (name,)
        seen = {}
        for filter_empty in (True, False):
            cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
            samples = [s for batch in batches(cfg, 3) for s in batch]
            seen[filter_empty] = {s["image_id"] for s in samples}
            assert all("instances" in s for s in samples)
        assert seen == {True: {1}, False: {1, 2, 3}}
    finally:
        DatasetCatalog.remove(name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "SAMPLER_TRAIN"),
        ("SOLVER.IMS_PER_BATCH", 0, "IMS_PER_BATCH is 0"),
        ("INPUT.DATASET_MAPPER_NAME", "unknown", "DATASET_MAPPER_NAME"),
    ],
)
def test_configs_that_cannot_work_are_named(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_train_loader(cfg, seed=0)


def test_the_batch_must_divide_by_the_number_of_processes(cfg, monkeypatch):
    monkeypatch.setattr("mask2former.data.loader.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH is 4.*processes, 3"):
        build_train_loader(cfg, seed=0)


def test_test_loader_gives_each_image_once(cfg, registered):
    cfg.INPUT.MIN_SIZE_TEST = 80
    result = list(build_test_loader(cfg, registered["val"]))
    assert [sample["image_id"] for [sample] in result] == [1, 2, 3]
    assert all(sample["image"].shape == (3, 80, 80) for [sample] in result)
