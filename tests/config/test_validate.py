"""Values out of range, and config files of strangers: a readable error, and at once."""

import itertools
import time

import pytest
from support import QUICKSTART, REPOSITORY

from mask2former import load_config
from mask2former.config.validate import check_early_stopping


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("configs/**/*.yaml")), ids=str)
def test_shipped_files_are_valid(file):
    load_config(str(file))


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("SOLVER.BASE_LR", -0.1, "at least 0"),
        ("SOLVER.BASE_LR", float("nan"), "finite"),
        ("SOLVER.MAX_ITER", -5, "whole number of at least 1"),
        ("SOLVER.STEPS", ("a",), "at least 0"),
        ("SOLVER.OPTIMIZER", "ADAM", "one of 'ADAMW', 'SGD'"),
        ("MODEL.MASK_FORMER.CLASS_WEIGHT", -1.0, "at least 0"),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 0, "at least 1"),
        ("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 1.5, "between 0 and 1"),
        ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 0, "at least 1"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 0, "at least 1"),
        ("MODEL.SWIN.DEPTHS", [2, 2], "4 values"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "a list of values, each above 0"),
        ("INPUT.MIN_SCALE", -1.0, "above 0"),
        ("INPUT.MIN_SCALE", 3.0, "above MAX_SCALE"),
        ("INPUT.MIN_SIZE_TRAIN", (0,), "at least 1"),
        ("INPUT.FORMAT", "GBR", "RGB or BGR; or, for images as they are stored, one of uint8"),
        ("INPUT.AUGMENTATION", "photo", "one of '', 'photographs', 'aerial'"),
        ("SOLVER.EMA_DECAY", 1.0, "at least 0 and below 1"),
        ("SOLVER.EARLY_STOPPING_PATIENCE", -1, "at least 0"),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 10**12, "at most 100,000"),
        ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 100_000, "at most 8,192"),
        ("MODEL.PIXEL_MEAN", ("a", "b", "c"), "each a number"),
        ("MODEL.RESNETS.OUT_FEATURES", [], "1 or more values, each one of 'stem'"),
        ("MODEL.RESNETS.DEPTH", 7, "one of 18, 34, 50, 101, 152"),
        ("MODEL.RESNETS.NORM", "X", "one of '', 'BN'"),
        ("MODEL.RESNETS.NUM_GROUPS", -1, "a whole number of at least 1"),
        ("MODEL.RESNETS.RES5_DILATION", 3, "one of 1, 2, 4"),
        ("MODEL.RESNETS.OUT_FEATURES", ["res9"], "one of 'stem', 'res2'"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [], "4 values, each one of False, True"),
        ("DATASETS.TRAIN", (None,), "a list of values, each a name"),
        ("DATASETS.TEST", ([1],), "each a name"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", [["res2"]], "each a name"),
        ("SOLVER.REFERENCE_WORLD_SIZE", -1, "a whole number of at least 0"),
        ("MODEL.SEM_SEG_HEAD.NORM", "X", "one of '', 'BN'"),
    ],
)
def test_a_value_out_of_range_is_named(key, value, rule):
    with pytest.raises(ValueError) as error:
        load_config(str(QUICKSTART), [key, value])
    (line,) = str(error.value).splitlines()
    assert line.startswith(key) and rule in line


@pytest.mark.parametrize("name", ["BGR", "uint16", "float32", "L", "CMYK"])
def test_formats_of_images_are_known(name):
    found = load_config(str(QUICKSTART), ["INPUT.FORMAT", name]).INPUT.FORMAT
    assert found == name


def test_all_errors_are_in_one_report():
    overrides = ["SOLVER.BASE_LR", -1.0, "INPUT.IMAGE_SIZE", 0, "MODEL.MASK_FORMER.NHEADS", -8]
    with pytest.raises(ValueError) as error:
        load_config(str(QUICKSTART), overrides)
    assert {line.split()[0] for line in str(error.value).splitlines()} == set(overrides[::2])


BOMB = "a: &a0 [x]\n" + "".join(f"b{i}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
MERGE_BOMB = "a: &a0 {x: 1}\n" + "".join(
    f"b{i}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(60)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VERSION: 1\n", "VERSION is '1'"),
        ("_BASE_: http://127.0.0.1:9/a.yaml\n", "download that file"),
        ("_BASE_: ../{folder}/top.yaml\n", "circle"),
        ("_BASE_: [a.yaml, a.yaml]\n", "more than 32 files"),
        ("_BASE_: secret\n", "secret.* is not a YAML file"),
        (BOMB, "aliases"),
        (MERGE_BOMB, "aliases"),
        ("a: &a [*a]\n", "aliases"),
        ("[" * 5000, "not a YAML file"),
        ("SOLVER: " + "{a: " * 3000, "not a YAML file"),
    ],
)
def test_files_of_strangers(tmp_path, text, message):
    top = tmp_path / "top.yaml"
    top.write_text(text.replace("{folder}", tmp_path.name))
    (tmp_path / "secret").write_text("root:x:0: [password\n")
    names = "abcdefghijklmnopqrstuvwxyz"
    for one, other in itertools.pairwise(names):  # 2^25 files, if all were followed
        (tmp_path / f"{one}.yaml").write_text(f"_BASE_: [{other}.yaml, {other}.yaml]\n")
    (tmp_path / "z.yaml").write_text("SEED: 1\n")
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        load_config(str(top))
    assert time.monotonic() - start < 10
    assert "password" not in str(error.value)


def test_an_override_cannot_exhaust_the_parser():
    with pytest.raises(ValueError, match="config override"):
        load_config(str(QUICKSTART), ["SOLVER.STEPS", "(" * 100_000])


def test_early_stopping_needs_something_to_watch():
    keys = ["SOLVER.EARLY_STOPPING_PATIENCE", 3]
    cfg = load_config(str(QUICKSTART), keys)  # a recipe may choose the metric later
    with pytest.raises(ValueError, match=r"needs a value of SOLVER\.BEST_METRIC, such as segm/AP$"):
        check_early_stopping(cfg)
    keys += ["SOLVER.BEST_METRIC", "segm/AP"]
    check_early_stopping(load_config(str(QUICKSTART), keys))
    with pytest.raises(ValueError, match="needs a validation set"):
        check_early_stopping(load_config(str(QUICKSTART), [*keys, "DATASETS.TEST", "()"]))
