"""Every published config is there and has the published values."""

import gzip
import json
from itertools import chain

import pytest
from detectron2.config import CfgNode, get_cfg
from support import REPOSITORY

from mask2former.config import add_maskformer2_config, load_config

CONFIGS = REPOSITORY / "configs"
FIXTURE = REPOSITORY / "tests/fixtures/published_configs.json.gz"
# Of each published config, what differs from the defaults.
PUBLISHED = json.loads(gzip.decompress(FIXTURE.read_bytes()))


def defaults() -> CfgNode:
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    return cfg


@pytest.mark.parametrize("name", PUBLISHED)
def test_config_resolves_to_the_published_values(name):
    published = defaults()
    published.merge_from_list(list(chain.from_iterable(PUBLISHED[name].items())))
    assert load_config(str(CONFIGS / name)) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_detectron2_reads_the_same_from_the_file(name):
    cfg = defaults()
    cfg.merge_from_file(str(CONFIGS / name), allow_unsafe=False)
    assert cfg == load_config(str(CONFIGS / name))


def test_no_other_config_is_among_the_published():
    files = {str(file.relative_to(CONFIGS)) for file in CONFIGS.glob("*/*-segmentation/**/*.yaml")}
    assert files == set(PUBLISHED)
    assert len(files) == 57
