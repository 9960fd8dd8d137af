"""Names of Hugging Face's Mask2Former: all are converted, and back without changing a bit."""

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from hf_models import (
    BACKBONES,
    PUBLISHED,
    config_of_hf_folder,
    model_config,
    published_config,
    random_model,
    save,
    swin_config,
)
from support import REPOSITORY
from transformers import Mask2FormerForUniversalSegmentation

from mask2former.checkpoint import WeightsError
from mask2former.checkpoint.huggingface.weight_names import d2_to_hf, hf_to_d2, is_hf_state

STATE_DICTS = REPOSITORY / "tests/fixtures/state_dicts"
# what transformers 5 has more, and less, than the published folders
LAYERNORM = re.compile(r".*\.encoder\.swin\.layernorm\.(weight|bias)")
INDEX = re.compile(r".*\.attention\.self\.relative_position_index")


@pytest.fixture(params=BACKBONES)
def folder(request, tmp_path) -> Path:
    """Return a folder as version 5 of transformers writes it."""
    changes = {"enforce_input_projection": True} if request.param == "swin" else {}
    save(random_model(model_config(BACKBONES[request.param](), **changes)), tmp_path)
    return tmp_path


def stored(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def assert_equal(actual: dict, expected: dict):
    assert sorted(actual) == sorted(expected)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def our_model(folder: Path) -> torch.nn.Module:
    cfg = config_of_hf_folder(folder, "instance")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(1)
    return build_model(cfg)


def test_files_have_exactly_the_tensors_of_our_model(folder):
    converted = hf_to_d2(stored(folder))
    ours = our_model(folder).state_dict()
    assert {n: (t.shape, t.dtype) for n, t in converted.items()} == {
        n: (t.shape, t.dtype) for n, t in ours.items()
    }
    for name in ours:
        if name.endswith("relative_position_index"):
            assert torch.equal(converted[name], ours[name])


def test_names_in_memory_are_understood_too(folder):
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder)
    assert_equal(hf_to_d2(model.state_dict()), hf_to_d2(stored(folder)))


def test_there_and_back_changes_no_bit(folder):
    theirs = stored(folder)
    back = d2_to_hf(hf_to_d2(theirs))
    expected = {name: t for name, t in theirs.items() if not LAYERNORM.fullmatch(name)}
    assert_equal({name: t for name, t in back.items() if not INDEX.fullmatch(name)}, expected)
    # and once more, now from names as in the published folders
    assert_equal(d2_to_hf(hf_to_d2(back)), back)


def test_ours_and_back_changes_no_bit(folder):
    ours = our_model(folder).state_dict()
    assert_equal(hf_to_d2(d2_to_hf(ours)), ours)


def test_what_only_training_uses_is_not_written(folder):
    ours = our_model(folder).state_dict()
    pilots = {"sem_seg_head.predictor.piloted.class_queries.weight": torch.zeros(5, 8)}
    assert_equal(d2_to_hf(ours | pilots), d2_to_hf(ours))


def test_half_precision_stays(folder):
    half = {n: t.half() if t.is_floating_point() else t for n, t in stored(folder).items()}
    ours = hf_to_d2(half)
    assert all(t.dtype == torch.float16 for t in ours.values() if t.is_floating_point())
    back = d2_to_hf(ours)
    assert all(torch.equal(back[name], half[name]) for name in back if name in half)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_published_names(name):
    with gzip.open(STATE_DICTS / f"{name}.json.gz") as file:
        published = json.load(file)["tensors"]
    with torch.device("meta"):
        theirs = Mask2FormerForUniversalSegmentation(published_config(name)).state_dict()
    ours = hf_to_d2(theirs)
    assert {
        n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in ours.items()
    } == published
    back = hf_to_d2(d2_to_hf(ours))
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in ours.items()}


def test_what_is_written_is_what_transformers_looks_for(folder):
    """Version 5 looks for a norm that it does not use, and warns of an index that it does not need.

    That is so with the published folders too; version 4 has the index and not the norm.
    """
    from safetensors.torch import save_file

    wanted = Mask2FormerForUniversalSegmentation.from_pretrained(folder).state_dict()
    state = d2_to_hf(hf_to_d2(stored(folder)))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not info["mismatched_keys"]
    assert all(LAYERNORM.fullmatch(name) for name in info["missing_keys"])
    assert all(name.endswith("relative_position_index") for name in info["unexpected_keys"])
    loaded = model.state_dict()
    for name, tensor in wanted.items():
        assert LAYERNORM.fullmatch(name) or torch.equal(loaded[name], tensor), name


def test_batch_norms_keep_their_counters_in_their_format():
    frozen = {
        f"backbone.stem.conv1.norm.{key}": torch.rand(8)
        for key in ("weight", "bias", "running_mean", "running_var")
    }
    counter = "model.pixel_level_module.encoder.embedder.embedder.normalization.num_batches_tracked"
    assert d2_to_hf(frozen)[counter] == 0
    trained = {**frozen, "backbone.stem.conv1.norm.num_batches_tracked": torch.tensor(7)}
    assert d2_to_hf(trained)[counter] == 7
    assert_equal(hf_to_d2(d2_to_hf(trained)), frozen)


def test_an_index_in_the_file_stays_as_it_is():
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self"
    table, index = torch.rand(9, 2), torch.arange(16).view(4, 4)
    state = {
        f"{block}.relative_position_bias_table": table,
        f"{block}.relative_position_index": index,
    }
    assert hf_to_d2(state)["backbone.layers.0.blocks.0.attn.relative_position_index"] is index


def test_conversion_leaves_the_random_state_alone(tmp_path):
    theirs = save(random_model(model_config(swin_config())), tmp_path)
    before = torch.get_rng_state()
    hf_to_d2(theirs)
    assert torch.equal(torch.get_rng_state(), before)


def test_pieces_do_not_share_memory():
    name = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_weight"
    weight = torch.arange(18.0).view(6, 3)
    pieces = d2_to_hf({name: weight})
    layer = "model.transformer_module.decoder.layers.0.self_attn"
    assert list(pieces) == [f"{layer}.{key}_proj.weight" for key in "qkv"]
    assert [int(piece[0, 0]) for piece in pieces.values()] == [0, 6, 12]
    assert len({piece.untyped_storage().data_ptr() for piece in pieces.values()}) == 3


def test_their_names_are_recognised(folder):
    theirs = stored(folder)
    assert is_hf_state(theirs)
    assert not is_hf_state(hf_to_d2(theirs))
    assert not is_hf_state({"layer1.0.conv1.weight": torch.zeros(1)})
    assert not is_hf_state({})


def test_unknown_names_are_listed():
    backbone = "model.pixel_level_module.encoder"
    state = {
        f"{backbone}.embeddings.norm.weight": torch.zeros(1),
        f"{backbone}.encoder.layer.0.attention.query.weight": torch.zeros(1),  # DINOv2's
        "model.pixel_level_module.decoder.fpn.stem.0.weight": torch.zeros(1),  # MaskFormer's
    }
    with pytest.raises(WeightsError, match=r"2 names .*decoder\.fpn\.stem.*encoder\.layer\.0"):
        hf_to_d2(state)
    many = {f"backbone.fpn_lateral{i}.weight": torch.zeros(1) for i in range(20)}
    with pytest.raises(WeightsError, match=r"20 names .*fpn_lateral0\.weight.* and 12 more"):
        d2_to_hf(many)


def test_missing_parts_are_named():
    layer = "model.transformer_module.decoder.layers.0.self_attn"
    state = {f"{layer}.{key}_proj.bias": torch.zeros(4) for key in "qv"}
    with pytest.raises(WeightsError, match=r"keys.* missing .*layers\.0\.self_attn\.in_proj_bias"):
        hf_to_d2(state)


def test_a_table_that_fits_no_window_is_refused():
    name = (
        "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self."
        "relative_position_bias_table"
    )
    with pytest.raises(WeightsError, match="16 rows"):
        hf_to_d2({name: torch.zeros(16, 2)})
