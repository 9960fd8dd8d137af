import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from support import REPOSITORY

import mask2former
from mask2former.config import add_maskformer2_config, defaults, load_config

FIXTURES = REPOSITORY / "tests/fixtures"
# Published default of each added key.
DEFAULTS = json.loads((FIXTURES / "config_defaults.json").read_text())
OWN_KEYS = {
    "DATALOADER.BAD_IMAGES": "stop",
    "LOGGERS": ["tensorboard", "json", "csv"],
    "MODEL.MASK_FORMER.ANNEALING.ENABLED": False,
    "MODEL.MASK_FORMER.ANNEALING.END": 0.833,
    "MODEL.MASK_FORMER.ANNEALING.POWER": 0.9,
    "MODEL.MASK_FORMER.ANNEALING.START": 0.167,
    "INPUT.ALBUMENTATIONS": "",
    "INPUT.AUGMENTATION": "",
    "MODEL.MASK_FORMER.IGNORE_REGIONS": False,
    "MODEL.MASK_FORMER.PILOTED.GROUPS": 0,
    "MODEL.MASK_FORMER.PILOTED.LABEL_NOISE": 0.2,
    "MODEL.MASK_FORMER.PILOTED.MASK_LAYERS": -1,
    "MODEL.MASK_FORMER.PILOTED.MASK_NOISE": 0.2,
    "MODEL.MASK_FORMER.PILOTED.MAX_QUERIES": 100,
    "MODEL.MASK_FORMER.PILOTED.NOISE": "point",
    "MODEL.MASK_FORMER.TEST.DEC_LAYERS": 0,
    "MODEL.SEM_SEG_HEAD.BIFPN_LAYERS": 7,
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD": 1024,
    "MODEL.TIMM.DROP_PATH_RATE": 0.0,
    "MODEL.TIMM.FREEZE_NORM": False,
    "MODEL.TIMM.FROZEN_STAGES": 0,
    "MODEL.TIMM.NAME": "",
    "MODEL.TIMM.PRETRAIN_IMG_SIZE": 0,
    "MODEL.TIMM.PYRAMID_DIM": 256,
    "MODEL.TIMM.USE_CHECKPOINT": False,
    "SOLVER.ACCUMULATE_STEPS": 1,
    "SOLVER.BEST_METRIC": "",
    "SOLVER.CHECKPOINTS_TO_KEEP": 0,
    "SOLVER.CHECKPOINT_PERIOD_MINUTES": 0.0,
    "SOLVER.EARLY_STOPPING_PATIENCE": 0,
    "SOLVER.EMA_DECAY": 0.0,
    "TEST.MASK_NMS": 1.0,
    "INPUT.COPY_PASTE": 0.0,
    "INPUT.OBJECT_CROP": 0.0,
    "MODEL.MASK_FORMER.CLASS_LOSS_WEIGHTS": [],
    "TEST.REPORT": True,
    "TEST.VALIDATION_LOSS": False,
    "SOLVER.LAYER_DECAY": 1.0,
}


def flatten(node: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def added_keys() -> dict:
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    return {key: value for key, value in flatten(cfg).items() if key not in flatten(get_cfg())}


def write(path: Path, text: str) -> str:
    path.write_text("VERSION: 2\n" + text)
    return str(path)


def test_added_keys_and_defaults_are_the_published_ones():
    assert added_keys() == DEFAULTS | OWN_KEYS
    assert {k: type(v) for k, v in added_keys().items()} == {
        k: type(v) for k, v in (DEFAULTS | OWN_KEYS).items()
    }


def test_detectron2_defaults_are_left_alone():
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    assert flatten(get_cfg()).items() <= flatten(cfg).items()


@pytest.mark.parametrize("nested", [False, True])
def test_python_tags_run_only_when_allowed(tmp_path, nested):
    trace = tmp_path / "trace"
    tagged = write(
        tmp_path / "tagged.yaml",
        f"MODEL:\n  WEIGHTS: !!python/object/apply:os.mkdir ['{trace}']\n",
    )
    file = write(tmp_path / "top.yaml", "_BASE_: tagged.yaml\n") if nested else tagged

    with pytest.raises(ValueError, match=r"tagged\.yaml:3:.*os\.mkdir.*--allow-unsafe-config"):
        load_config(file)
    assert not trace.exists()

    # os.mkdir returns None, which any key may hold.
    load_config(file, allow_unsafe=True)
    assert trace.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  MASK_FORMR: {NHEADS: 8}\n", r"top\.yaml:3: .*MODEL\.MASK_FORMR; did you mean "
         r"MODEL\.MASK_FORMER\?"),
        ("MODEL: {NUM_OBJECT_QUERIES: 8}\n", r"did you mean MODEL\.MASK_FORMER\.NUM_OBJECT_Q"),
        ("MODEL:\n  MASK_FORMER:\n    NHEADS: eight\n", r"top\.yaml:4: MODEL\.MASK_FORMER\.NHEADS "
         "takes a value of type int, such as 8; got str eight"),
        ("MODEL: 3\n", r"top\.yaml:2: MODEL holds further keys"),
        ("_BASE_: absent.yaml\n", r"absent\.yaml \(the _BASE_ of .*top\.yaml\) does not exist"),
        ("_BASE_: top.yaml\n", r"in a circle: .*top\.yaml -> .*top\.yaml"),
        ("_BASE_: {a: b}\n", r"top\.yaml:2: _BASE_ takes a file name"),
        ("MODEL: [\n", r"top\.yaml is not a YAML file"),
        ("? [a, b]\n: 3\n", r"top\.yaml:2: unknown config key"),
        ("MODEL: {WEIGHTS: !own 3}\n", r"top\.yaml:2: could not determine .* '!own'$"),
    ],
)  # fmt: skip
def test_an_error_in_a_file_names_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path / "top.yaml", text))


def test_every_unknown_key_is_reported_with_its_file(tmp_path):
    write(tmp_path / "base.yaml", "MODEL: {WEIGHT: x}\n")
    file = write(tmp_path / "top.yaml", "_BASE_: base.yaml\nSOLVER: {BASELR: 1.0}\n")
    with pytest.raises(ValueError) as error:
        load_config(file)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert "top.yaml:3: unknown config key SOLVER.BASELR" in lines[0]
    assert "base.yaml:2: unknown config key MODEL.WEIGHT" in lines[1]


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist"):
        load_config(str(tmp_path / "absent.yaml"))
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(ValueError, match=r"empty\.yaml holds no 'KEY: value' lines"):
        load_config(str(tmp_path / "empty.yaml"))


def test_later_bases_and_the_file_itself_override(tmp_path):
    write(tmp_path / "a.yaml", "SOLVER: {MAX_ITER: 1, BASE_LR: 1.0, GAMMA: 1.0}\n")
    write(tmp_path / "b.yaml", "SOLVER: {MAX_ITER: 2, BASE_LR: 2.0}\n")
    file = write(tmp_path / "top.yaml", "_BASE_: [a.yaml, b.yaml]\nSOLVER: {MAX_ITER: 3}\n")
    solver = load_config(file).SOLVER
    assert (solver.MAX_ITER, solver.BASE_LR, solver.GAMMA) == (3, 2.0, 1.0)


def test_yaml_merge_keys_are_followed(tmp_path):
    text = "TEST: &test {EVAL_PERIOD: 7}\n"
    base = load_config(write(tmp_path / "right.yaml", text + "<<: {SEED: 3}\n"))
    assert (base.TEST.EVAL_PERIOD, base.SEED) == (7, 3)
    with pytest.raises(ValueError, match=r"wrong\.yaml:2: unknown config key SOLVER\.EVAL_PERIOD"):
        load_config(write(tmp_path / "wrong.yaml", text + "SOLVER: {<<: *test}\n"))


def test_overrides(tmp_path):
    file = write(tmp_path / "top.yaml", "SOLVER: {MAX_ITER: 3}\n")
    cfg = load_config(file, ["SOLVER.MAX_ITER", "5", "DATASETS.TRAIN", "('a', 'b')"])
    assert cfg.SOLVER.MAX_ITER == 5
    assert cfg.DATASETS.TRAIN == ("a", "b")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITR", "5"], r"'SOLVER\.MAX_ITR 5'.*did you mean SOLVER\.MAX_ITER\?"),
        (["SOLVER.MAX_ITER", "few"], r"SOLVER\.MAX_ITER takes a value of type int.*str few"),
        (["SOLVER.MAX_ITER"], "pairs"),
        (["SOLVER", "5"], "SOLVER holds further keys"),
        (["SOLVER.MAX_ITER.X", "5"], "unknown config key"),
        (["_BASE_", "x"], "unknown config key"),
    ],
)
def test_an_error_in_an_override_names_the_key(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path / "top.yaml", "SOLVER: {MAX_ITER: 3}\n"), overrides)


def attribute_chains(file: Path) -> Iterator[str]:
    """Yield the dotted names that a file reads, "cfg.MODEL.SWIN.APE", through local aliases."""
    aliases: dict[str, str] = {}

    def dotted(node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            parent = dotted(node.value)
            return parent and f"{parent}.{node.attr}"
        return None

    def remember(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            starred = any(isinstance(part, ast.Starred) for part in value.elts)
            for pair in zip(target.elts, value.elts, strict=True) if not starred else ():
                remember(*pair)
        elif isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
            name = dotted(value)
            if name and value.attr.isupper():
                aliases[target.id] = name

    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            remember(node.targets[0], node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield dotted(node) or ""


def test_every_added_key_is_read_or_labelled_as_unread():
    unread = get_cfg()
    unread.MODEL.MASK_FORMER = CfgNode({"TEST": CfgNode()})
    defaults._add_keys_only_published_files_need(unread)
    labelled = flatten(unread).keys() - flatten(get_cfg()).keys()

    package = Path(mask2former.__file__).parent
    files = [f for f in package.rglob("*.py") if f != Path(defaults.__file__)]
    chains = {chain for file in files for chain in attribute_chains(file)}
    read = {k for k in added_keys() if any(chain.endswith(f".{k}") for chain in chains)}

    assert added_keys().keys() - read == labelled
