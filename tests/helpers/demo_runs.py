"""Output folders of small models with random weights."""

import json
from pathlib import Path

import torch
from detectron2.modeling import build_model

from mask2former.config import load_config

CONFIG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  WEIGHTS: weights_that_training_started_from.pkl
  META_ARCHITECTURE: MaskFormer
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
  BACKBONE: {NAME: build_resnet_backbone, FREEZE_AT: 0}
  RESNETS:
    DEPTH: 18
    RES2_OUT_CHANNELS: 64
    OUT_FEATURES: [res2, res3, res4, res5]
  SEM_SEG_HEAD:
    NAME: MaskFormerHead
    NUM_CLASSES: 3
    IN_FEATURES: [res2, res3, res4, res5]
    PIXEL_DECODER_NAME: MSDeformAttnPixelDecoder
    NORM: GN
    CONVS_DIM: 32
    MASK_DIM: 32
    TRANSFORMER_ENC_LAYERS: 1
    DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD: 32
  MASK_FORMER:
    TRANSFORMER_IN_FEATURE: multi_scale_pixel_decoder
    HIDDEN_DIM: 32
    DIM_FEEDFORWARD: 64
    NUM_OBJECT_QUERIES: 20
    DEC_LAYERS: 3
    TEST: {SEMANTIC_ON: False, INSTANCE_ON: True}
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}
TEST: {DETECTIONS_PER_IMAGE: 20}
"""
NAMES = ["cat", "dog", "person"]
IDS = [1, 18, 44]
# A model of all three tasks, whose things are not the first classes.
ALL_NAMES = ["sky", "dog", "road", "person"]
ALL_IDS = [7, 18, 44, 1]
COLORS = [(70, 130, 180), (0, 0, 142), (128, 64, 128), (220, 20, 60)]
THINGS = [1, 3]
DATA_SET = "data_set_of_the_demos_tests"
_ONE_TEST = "TEST: {SEMANTIC_ON: False, INSTANCE_ON: True}"
_ALL_TESTS = """
    TEST:
      SEMANTIC_ON: True
      INSTANCE_ON: True
      PANOPTIC_ON: True
      OVERLAP_THRESHOLD: 0.2
      OBJECT_MASK_THRESHOLD: 0.3"""
PANOPTIC_CONFIG = f"""{
    CONFIG.replace("NUM_CLASSES: 3", "NUM_CLASSES: 4").replace(_ONE_TEST, _ALL_TESTS.strip())
}DATASETS: {{TRAIN: [{DATA_SET}], TEST: [{DATA_SET}]}}
"""
SEMANTIC_CONFIG = """
VERSION: 2
MODEL:
  DEVICE: cpu
  META_ARCHITECTURE: SemanticSegmentor
  BACKBONE: {NAME: build_resnet_backbone, FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  SEM_SEG_HEAD:
    NAME: PerPixelBaselineHead
    NUM_CLASSES: 4
    IN_FEATURES: [res2, res3, res4, res5]
    PIXEL_DECODER_NAME: BasePixelDecoder
    NORM: GN
    CONVS_DIM: 32
    MASK_DIM: 32
INPUT: {FORMAT: RGB, MIN_SIZE_TEST: 96, MAX_SIZE_TEST: 160}
"""


def make_run(folder: Path, config: str, metadata: dict, varied: bool = False) -> Path:
    """Fill an output folder as training does, and return the config file."""
    (folder / "config.yaml").write_text(config)
    torch.manual_seed(0)
    model = build_model(
        load_config(str(folder / "config.yaml"), ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False])
    )
    state = model.state_dict()
    if varied:  # otherwise all queries find nearly the same, with low scores
        for name, parameter in state.items():
            if any(part in name for part in ("class_embed.weight", "mask_embed", "query")):
                parameter *= 3
    torch.save({"model": state}, folder / "model_final.pth")
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder / "config.yaml"


def instance_run(folder: Path) -> Path:
    """Make the run of an instance model, and return its config file."""
    metadata = {
        "thing_classes": NAMES,
        "thing_dataset_id_to_contiguous_id": {str(id_): i for i, id_ in enumerate(IDS)},
    }
    return make_run(folder, CONFIG, metadata)


def panoptic_run(folder: Path) -> Path:
    """Make the run of a model that does all three tasks, and return its config file."""
    to_index = {str(id_): i for i, id_ in enumerate(ALL_IDS)}
    metadata = {
        "thing_classes": [ALL_NAMES[i] for i in THINGS],
        "thing_dataset_id_to_contiguous_id": {k: i for k, i in to_index.items() if i in THINGS},
        "stuff_classes": ALL_NAMES,
        "stuff_dataset_id_to_contiguous_id": to_index,
        "stuff_colors": COLORS,
    }
    return make_run(folder, PANOPTIC_CONFIG, metadata, varied=True)
