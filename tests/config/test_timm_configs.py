"""The configs with encoders of timm."""

import pytest
import timm
from support import REPOSITORY

from mask2former import load_config

TIMM = REPOSITORY / "configs/timm"
FILES = sorted(str(file.relative_to(TIMM)) for file in TIMM.rglob("*.yaml"))
BASES = {
    "coco-instance": "coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml",
    "coco-panoptic": "coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml",
    "ade20k-semantic": "ade20k/semantic-segmentation/maskformer2_R50_bs16_160k.yaml",
}


def test_every_data_set_has_the_same_encoders():
    by_folder = {folder: {f.name for f in (TIMM / folder).iterdir()} for folder in BASES}
    assert len(by_folder["coco-instance"]) == 9
    assert len({frozenset(names) for names in by_folder.values()}) == 1


@pytest.mark.parametrize("file", FILES)
def test_only_the_encoder_and_its_training_differ_from_r50(file):
    cfg = load_config(str(TIMM / file))
    name, address = cfg.MODEL.TIMM.NAME, cfg.MODEL.WEIGHTS
    assert timm.is_model(name)
    assert address.startswith("package://") or address.removeprefix("timm://").startswith(
        name + "."
    )
    if address.startswith("timm://"):
        assert address.removeprefix("timm://") in timm.list_pretrained(f"{name}.*")
        mean, std = (timm.get_pretrained_cfg(name).to_dict()[key] for key in ("mean", "std"))
        assert pytest.approx([255 * x for x in mean]) == cfg.MODEL.PIXEL_MEAN
        assert pytest.approx([255 * x for x in std]) == cfg.MODEL.PIXEL_STD
    r50 = load_config(str(REPOSITORY / "configs" / BASES[file.split("/")[0]]))
    for key in ("WEIGHTS", "BACKBONE", "TIMM", "PIXEL_MEAN", "PIXEL_STD"):
        cfg.MODEL[key] = r50.MODEL[key]
    for key in ("BACKBONE_MULTIPLIER", "LAYER_DECAY"):
        cfg.SOLVER[key] = r50.SOLVER[key]
    assert cfg == r50
