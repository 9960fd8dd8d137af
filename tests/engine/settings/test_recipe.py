"""Properties that the settings of the recipe must have, whatever the data and the machine."""

import functools
import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
from support import REPOSITORY

from mask2former import load_config
from mask2former.config.merge import get_value, merge_overrides
from mask2former.config.validate import validate
from mask2former.data.checks.report import ImageContent
from mask2former.engine.settings.choices import KEYS, set_values, table
from mask2former.engine.settings.facts import DataFacts, Machine, data_facts
from mask2former.engine.settings.recipe import choose
from mask2former.structures import Classes
from mask2former.tasks import TASKS

CPU = Machine("cpu", processes=1, cores=2, memory=8 * 2**30, fast_16_bit=False)
GPU = Machine("cuda", processes=1, cores=16, memory=40 * 2**30, fast_16_bit=True)
PHOTOS = DataFacts("instance", 87, 51, 640, 640, 1.0, objects=12, most_objects=14)
FILES = {
    f"{kind}-{task}": str(REPOSITORY / "configs" / f"{file}.yaml")
    for task in TASKS
    for kind, file in (
        ("small", f"quickstart/{task}"),
        ("photos", f"quickstart/photos{'' if task == 'instance' else f'_{task}'}"),
        ("published", TASKS[task].config),
    )
}


@functools.cache
def published_config(file):
    return load_config(file)


def settings(data=PHOTOS, machine=CPU, kind="small", opts=(), **options):
    """Return the config of a run whose user gives `opts`."""
    file = FILES[f"{kind}-{data.task}"]
    published = published_config(file)
    cfg = published.clone()
    merge_overrides(cfg, opts)
    given = {str(key) for key in opts[::2]}
    choices = choose(cfg, data, machine, given=given, published=published, **options)
    assert {choice.key for choice in choices} <= set(KEYS) - given
    assert len({choice.key for choice in choices}) == len(choices)
    assert all(choice.why for choice in choices)
    set_values(cfg, choices)
    validate(cfg)
    return cfg


def images_seen(cfg):
    solver = cfg.SOLVER
    return solver.MAX_ITER * solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("machine", [CPU, GPU, replace(GPU, processes=8), replace(CPU, cores=64)])
@pytest.mark.parametrize("images", [1, 2, 17, 200, 5000, 200_000])
def test_settings_are_consistent(name, machine, images):
    kind, task = name.split("-")
    data = DataFacts(task, images, images // 5, 480, 640, 1.5, objects=30, most_objects=60)
    cfg = settings(data, machine, kind)
    solver = cfg.SOLVER
    assert solver.IMS_PER_BATCH % machine.processes == 0
    assert 0 < solver.WARMUP_ITERS < solver.MAX_ITER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        assert all(0 < step < solver.MAX_ITER for step in solver.STEPS)
    assert cfg.INPUT.MIN_SIZE_TEST <= cfg.INPUT.MAX_SIZE_TEST
    assert solver.CHECKPOINT_PERIOD <= solver.MAX_ITER
    if data.val_images:
        assert cfg.TEST.EVAL_PERIOD <= solver.MAX_ITER
        assert solver.MAX_ITER / cfg.TEST.EVAL_PERIOD <= 10
        batch = solver.IMS_PER_BATCH * solver.ACCUMULATE_STEPS
        epoch = math.ceil(images / batch)
        assert min(epoch, solver.MAX_ITER) <= cfg.TEST.EVAL_PERIOD
        assert solver.BEST_METRIC.split("/")[0] in {"segm", "panoptic_seg", "sem_seg"}


@pytest.mark.parametrize("kind", ["small", "published"])
def test_own_photographs_do_not_train_as_long_as_coco(kind):
    """The hand-tuned run from scratch saw 16,000 images; published configs see 5.9 million."""
    cfg = settings(kind=kind)
    assert 2500 < images_seen(cfg) < 32_000


def test_training_from_weights_is_shorter_on_a_cpu():
    from_weights = images_seen(settings(kind="published"))
    assert from_weights < images_seen(settings(kind="published", opts=["MODEL.WEIGHTS", ""])) / 2


@pytest.mark.parametrize("machine", [CPU, GPU])
def test_more_images_are_seen_longer_but_less_often(machine):
    counts = [2, 5, 10, 30, 87, 127, 128, 300, 1000, 3000, 10_000, 118_000]
    seen = [images_seen(settings(replace(PHOTOS, images=n), machine, "published")) for n in counts]
    assert seen == sorted(seen)
    epochs = [total / n for total, n in zip(seen, counts, strict=True)]
    assert all(a >= 0.99 * b for a, b in itertools.pairwise(epochs))


def test_learning_rate_follows_the_root_of_the_batch():
    rate = load_config(FILES["published-instance"]).SOLVER.BASE_LR
    for batch, steps in ((1, 1), (4, 1), (4, 4), (16, 4)):
        opts = ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.ACCUMULATE_STEPS", steps]
        found = settings(machine=GPU, kind="published", opts=opts).SOLVER.BASE_LR
        assert found == pytest.approx(rate * (batch * steps / 16) ** 0.5, rel=0.01)


def test_accumulation_reaches_the_batch_of_the_recipe_in_little_memory():
    data = replace(PHOTOS, images=5000, long_side=2000)
    batches = []
    for memory in (12, 24, 80):
        cfg = settings(data, replace(GPU, memory=memory * 2**30), "published")
        batches.append(cfg.SOLVER.IMS_PER_BATCH)
        assert 16 <= cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS < 20
    assert batches == sorted(batches) and batches[0] < batches[-1]


@pytest.mark.parametrize("kind", ["small", "published"])
@pytest.mark.parametrize("task", TASKS)
def test_given_values_win(kind, task):
    data = replace(PHOTOS, task=task, objects=70, most_objects=90)
    chosen = settings(data, kind=kind)
    different = {
        "SOLVER.MAX_ITER": 77, "SOLVER.BASE_LR": 0.5, "SOLVER.IMS_PER_BATCH": 3,
        "INPUT.MIN_SIZE_TEST": 96, "INPUT.MAX_SIZE_TEST": 224, "TEST.EVAL_PERIOD": 5,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 33, "SOLVER.EMA_DECAY": 0.0,
        "DATALOADER.NUM_WORKERS": 3, "SOLVER.CHECKPOINT_PERIOD": 9, "INPUT.IMAGE_SIZE": 160,
        "SOLVER.AMP.ENABLED": True, "SOLVER.WARMUP_ITERS": 3, "SOLVER.BEST_METRIC": "x",
    }  # fmt: skip
    for key, value in different.items():
        assert get_value(settings(data, kind=kind, opts=[key, value]), key) == value
        assert get_value(chosen, key) != value
    cfg = settings(data, kind=kind, opts=[word for pair in different.items() for word in pair])
    assert all(get_value(cfg, key) == value for key, value in different.items())


def test_everything_given_leaves_nothing_to_choose():
    cfg = load_config(FILES["small-instance"])
    assert not choose(cfg, PHOTOS, CPU, given=frozenset(KEYS))


def test_the_longer_side_follows_the_shorter_side_in_evaluation():
    """With the config's own MAX_SIZE_TEST of 128, a MIN_SIZE_TEST of 256 would have no effect."""
    wide = replace(PHOTOS, short_side=480, long_side=800, elongation=1.7)
    opts = ["INPUT.IMAGE_SIZE", 256, "INPUT.MIN_SIZE_TEST", 256]
    assert settings(wide, opts=opts).INPUT.MAX_SIZE_TEST >= 1.7 * 256
    cfg = settings(wide, opts=["INPUT.IMAGE_SIZE", 320])
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (320, 320)
    cfg = settings(replace(wide, task="semantic"))
    assert cfg.INPUT.MIN_SIZE_TEST == cfg.INPUT.CROP.SIZE[0] == cfg.INPUT.SIZE_DIVISIBILITY
    assert cfg.INPUT.MAX_SIZE_TEST >= 1.7 * cfg.INPUT.MIN_SIZE_TEST
    assert min(cfg.INPUT.MIN_SIZE_TRAIN) < cfg.INPUT.MIN_SIZE_TEST < max(cfg.INPUT.MIN_SIZE_TRAIN)


def test_sizes_are_those_of_the_images_up_to_what_the_machine_can_train():
    sides = [100, 128, 200, 256, 600, 3000]
    found = [
        settings(replace(PHOTOS, long_side=side, short_side=side), GPU, "published").INPUT
        for side in sides
    ]
    assert [input_.IMAGE_SIZE for input_ in found] == [128, 128, 224, 256, 608, 1024]
    assert settings(replace(PHOTOS, long_side=3000), CPU, "published").INPUT.IMAGE_SIZE == 320


def test_queries_hold_the_objects_of_an_image():
    few = settings().MODEL.MASK_FORMER
    assert (few.NUM_OBJECT_QUERIES, few.NO_OBJECT_WEIGHT) == (20, 0.3)  # the config's
    for objects in (18, 40, 97, 150):
        cfg = settings(replace(PHOTOS, objects=objects, most_objects=2 * objects))
        head = cfg.MODEL.MASK_FORMER
        assert head.NUM_OBJECT_QUERIES % 10 == 0
        assert objects < head.NUM_OBJECT_QUERIES < 1.5 * objects + 14
        assert 0.1 <= head.NO_OBJECT_WEIGHT < 0.3
        assert 2 * objects <= cfg.TEST.DETECTIONS_PER_IMAGE


def test_epochs_count_images():
    cfg = settings(replace(PHOTOS, images=100), epochs=7.0)
    assert images_seen(cfg) / 100 == pytest.approx(7, abs=0.1)


def test_evaluation_takes_a_small_share_of_a_run():
    cfg = settings(replace(PHOTOS, images=50, val_images=5000))
    evaluations = cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD
    assert 1 <= evaluations < 3
    for cost in (0.3, 1.0, 5.0):
        cfg = settings(replace(PHOTOS, val_images=400), training_cost=cost)
        # in units of the time of an evaluated image, of the weights and of their average
        evaluation = 2 * 400 * cfg.SOLVER.MAX_ITER / cfg.TEST.EVAL_PERIOD
        assert evaluation <= 0.21 * images_seen(cfg) * cost or evaluation <= 2 * 400
    for cfg in (
        settings(replace(PHOTOS, val_images=0)),
        settings(opts=["TEST.EVAL_PERIOD", 0]),
    ):
        assert (cfg.SOLVER.EMA_DECAY, cfg.SOLVER.BEST_METRIC) == (0, "")


def test_short_runs_have_no_average_of_weights():
    """It would hardly differ from the weights, and take the time of a second evaluation."""
    assert settings(epochs=1.0).SOLVER.EMA_DECAY == 0
    assert 0 < settings(epochs=10.0).SOLVER.EMA_DECAY < 1


def test_the_table_has_a_line_per_choice():
    choices = choose(load_config(FILES["small-instance"]), PHOTOS, CPU)
    lines = table(choices).splitlines()
    assert len(lines) == len(choices) > 10
    for line, choice in zip(lines, choices, strict=True):
        assert line.split()[0] == choice.key and line.endswith(choice.why)


@pytest.mark.parametrize("kind", ["small", "photos", "published"])
@pytest.mark.parametrize("task", TASKS)
def test_what_nobody_labelled_is_ignored_unless_it_is_background(kind, task):
    data = replace(PHOTOS, task=task)
    assert settings(data, kind=kind).MODEL.MASK_FORMER.IGNORE_REGIONS
    known = replace(data, void_is_background=True)
    assert not settings(known, kind=kind).MODEL.MASK_FORMER.IGNORE_REGIONS
    off = ["MODEL.MASK_FORMER.IGNORE_REGIONS", False]
    assert not settings(data, kind=kind, opts=off).MODEL.MASK_FORMER.IGNORE_REGIONS


@pytest.mark.parametrize(
    ("task", "things", "count", "is_background"),
    [
        ("instance", 2, 2, False),
        ("panoptic", 2, 2, True),
        ("panoptic", 1, 2, False),
        ("semantic", None, 1, True),
        ("semantic", None, 2, False),
    ],
)
def test_when_void_is_background(task, things, count, is_background):
    known = None if things is None else frozenset(range(things))
    classes = replace(Classes.numbered(count), things=known)
    images = {"a.png": ImageContent((40, 50), Counter({0: 3}))}
    assert data_facts(task, images, classes).void_is_background == is_background


@pytest.mark.parametrize(
    ("shares", "threshold"),
    [
        ((), 0),
        ((0.3, 0.5, 1.0), 0),  # hardly unequal
        ((0.08, 0.09, 0.9), 0),  # unequal, but the rarest would be seen 1.06 times as often
        ((0.02, 1.0), 0.2),
        ((0.0002, 0.001, 0.4), 0.001),  # the median, as LVIS has it
    ],
)
def test_images_of_rare_classes_are_repeated(shares, threshold):
    data = replace(PHOTOS, frequencies=shares)
    sampler = "RepeatFactorTrainingSampler" if threshold else "TrainingSampler"
    cfg = settings(data)
    assert (sampler, threshold) == (cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD)
    opts = ["DATALOADER.SAMPLER_TRAIN", "TrainingSampler"]
    assert settings(data, opts=opts).DATALOADER.REPEAT_THRESHOLD == 0


def test_frequencies_are_shares_of_images():
    units = [Counter({1: 9}), Counter({1: 1, 2: 2}), Counter({1: 1, 3: 0}), Counter()]
    images = {f"{i}.png": ImageContent((40, 50), content) for i, content in enumerate(units)}
    classes = Classes(("a", "b", "c"), (1, 2, 3))
    assert data_facts("instance", images, classes).frequencies == (0.25, 0.75)


def test_windows_are_for_small_objects_in_large_images():
    large = replace(PHOTOS, short_side=3000, long_side=4000)
    small = {"object_side": 60.0}
    assert settings(replace(large, **small)).INPUT.OBJECT_CROP == 0.5
    # as large as phones take them, but of large objects; of unknown ones; and small images
    assert settings(replace(large, object_side=900.0)).INPUT.OBJECT_CROP == 0
    assert settings(large).INPUT.OBJECT_CROP == 0
    assert settings(replace(PHOTOS, object_side=20.0)).INPUT.OBJECT_CROP == 0
    given = settings(replace(large, **small), opts=["INPUT.OBJECT_CROP", 0.0])
    assert given.INPUT.OBJECT_CROP == 0
