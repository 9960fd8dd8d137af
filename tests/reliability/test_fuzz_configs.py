"""A damaged config file is a config or an error of a few lines that names the file."""

import functools
import json
import random

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from fuzzing import HOSTILE_VALUES, cases, mutated_bytes, mutated_json, run_cases
from support import QUICKSTART, REPOSITORY

from mask2former import add_maskformer2_config, load_config

FILES = [
    QUICKSTART,
    REPOSITORY / "configs/coco/panoptic-segmentation/swin/maskformer2_swin_tiny_bs16_50ep.yaml",
    REPOSITORY / "configs/ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml",
]


def all_defaults():
    """Return every key with its value, as plain values."""
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    return json.loads(json.dumps(yaml.safe_load(cfg.dump())))


def load(path, overrides=()):
    try:
        cfg = load_config(str(path), overrides)
    except ValueError as error:
        text = str(error)
        text.encode()
        assert len(text) < 20_000
        assert len(text.splitlines()) < 400, "at most a line for each key"
        assert all(line.isprintable() for line in text.split("\n")), repr(text)
        return
    assert isinstance(cfg, CfgNode)


def damaged_bytes(folder, seed):
    rng = random.Random(seed)
    path = folder / f"bytes{seed % 2}.yaml"
    content = rng.choice(FILES).read_bytes().replace(b"_BASE_: ", f"_BASE_: {folder}/".encode())
    path.write_bytes(mutated_bytes(content, rng))
    load(path)


def damaged_values(folder, seed):
    rng = random.Random(seed)
    path = folder / f"values{seed % 2}.yaml"
    values = mutated_json(all_defaults(), rng)
    path.write_text(yaml.safe_dump(values, allow_unicode=rng.random() < 0.5), "utf-8", "replace")
    load(path)


def damaged_bases(folder, seed):
    rng = random.Random(seed)
    names = [f"base{i}.yaml" for i in range(4)]
    for name in names:
        bases = rng.sample([*names, ".", "/dev/zero", "/etc/passwd", "missing"], rng.randint(1, 3))
        base = rng.choice([bases, bases[0], *HOSTILE_VALUES])
        (folder / name).write_text(yaml.safe_dump({"_BASE_": base}), "utf-8", "replace")
    load(folder / names[0])


def overrides(folder, seed):
    rng = random.Random(seed)
    keys = ["SOLVER.BASE_LR", "MODEL", "SEED", "MODEL.SWIN.DEPTHS", "VERSION", "a.b", "_BASE_", ""]
    values = [*map(str, HOSTILE_VALUES), *HOSTILE_VALUES, "(" * 300, "__import__('os')", "1e999"]
    load(QUICKSTART, [rng.choice(rng.choice([keys, values])) for _ in range(rng.randint(1, 4))])


@pytest.mark.parametrize("damage", [damaged_bytes, damaged_values, damaged_bases, overrides])
def test_damaged_configs(damage, tmp_path):
    run_cases(functools.partial(damage, tmp_path), cases(50))
