"""Loading into a model: everything or nothing, with a report that says what to change."""

import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model

from mask2former import add_maskformer2_config
from mask2former.checkpoint import (
    Checkpointer,
    WeightsError,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from mask2former.engine import Trainer


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.MODEL.DEVICE = "cpu"
    return tiny_cfg


def fresh(cfg: CfgNode, seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(cfg)


def detectron2_fpn(meta_architecture: str) -> CfgNode:
    """Return the config of a small Detectron2 model with its own `SemSegFPNHead`."""
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 1.0
    if meta_architecture == "PanopticFPN":
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 16
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    return cfg


def saved(cfg: CfgNode, path, seed: int = 0, rename=lambda name: name) -> dict:
    """Write the weights of a new model, and return them."""
    state = fresh(cfg, seed).state_dict()
    write_checkpoint({"model": {rename(name): tensor for name, tensor in state.items()}}, path)
    return state


def assert_state(model, wanted):
    state = model.state_dict()
    assert sorted(state) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(state[name], tensor), name


def old_name(name: str) -> str:
    """Return a name as in the first published checkpoints."""
    name = name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")
    return name.replace("predictor.query_feat", "predictor.static_query")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("rename", [str, old_name, "module.{}".format])
def test_every_name_of_new_and_old_files_is_loaded(cfg, suffix, rename, tmp_path):
    wanted = saved(cfg, tmp_path / f"a{suffix}", rename=rename)
    model = fresh(cfg)
    load_weights(model, str(tmp_path / f"a{suffix}"))
    assert_state(model, wanted)


@pytest.mark.parametrize("rename", [str, old_name])
def test_old_names_of_the_per_pixel_baselines_are_loaded_too(cfg, rename, tmp_path):
    cfg.MODEL.SEM_SEG_HEAD.NAME = "PerPixelBaselineHead"
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    wanted = saved(cfg, tmp_path / "a.pth", rename=rename)
    model = fresh(cfg)
    load_weights(model, str(tmp_path / "a.pth"))
    assert_state(model, wanted)


@pytest.mark.parametrize("meta_architecture", ["SemanticSegmentor", "PanopticFPN"])
def test_a_head_of_detectron2_is_loaded_under_its_own_names(meta_architecture, tmp_path):
    cfg = detectron2_fpn(meta_architecture)
    model = fresh(cfg, seed=0)
    wanted = model.state_dict()
    assert {"sem_seg_head.p2.0.weight", "sem_seg_head.predictor.weight"} <= set(wanted)
    Checkpointer(model, str(tmp_path)).save("model_final")
    for path in (tmp_path / "model_final.pth", tmp_path / "a.pkl", tmp_path / "a.safetensors"):
        if not path.exists():
            write_checkpoint({"model": wanted}, path)
        other = fresh(cfg)
        load_weights(other, str(path))
        assert_state(other, wanted)


@pytest.mark.parametrize("rename", [str, old_name])
def test_detectron2s_own_loader_takes_old_names_too(cfg, rename, tmp_path):
    wanted = saved(cfg, tmp_path / "a.pth", rename=rename)
    # as published: NumPy arrays without metadata
    arrays = {rename(name): tensor.numpy() for name, tensor in wanted.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Mask2Former"}))
    for name in ("a.pth", "a.pkl"):
        model = fresh(cfg)
        DetectionCheckpointer(model).load(str(tmp_path / name))
        assert_state(model, wanted)


def test_matching_heuristics_flag(cfg, tmp_path):
    wanted = fresh(cfg, 0).state_dict()
    content = {"model": wanted, "__author__": "third_party", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    model = fresh(cfg)
    load_weights(model, str(tmp_path / "a.pkl"))
    assert_state(model, wanted)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 7),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 12),
        ("MODEL.MASK_FORMER.DEC_LAYERS", 4),
        ("MODEL.MASK_FORMER.DIM_FEEDFORWARD", 96),
        ("MODEL.MASK_FORMER.HIDDEN_DIM", 64),
        ("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", 64),
        ("MODEL.SEM_SEG_HEAD.MASK_DIM", 16),
        ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_DIM_FEEDFORWARD", 48),
        ("MODEL.RESNETS.DEPTH", 101),
        ("MODEL.BACKBONE.NAME", "D2SwinTransformer"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BasePixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "TransformerEncoderPixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "SemanticFPNPixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "BiFPNPixelDecoder"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "FaPNPixelDecoder"),
    ],
)
def test_weights_that_do_not_fit_name_the_key_to_change_and_load_nothing(cfg, key, value, tmp_path):
    theirs = cfg.clone()
    theirs.merge_from_list([key, value])
    saved(theirs, tmp_path / "a.pth")
    model = fresh(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(model, str(tmp_path / "a.pth"))
    lines = str(error.value).splitlines()
    assert "a.pth do not fit the config" in lines[0]
    configured = cfg
    for part in key.split("."):
        configured = configured[part]
    assert f"  {key}: {value} in the file, {configured} in the config" in lines
    assert len(lines) < 40
    assert_state(model, before)


def test_weights_of_another_transformer_decoder(cfg, tmp_path):
    theirs = cfg.clone()
    theirs.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME = "StandardTransformerDecoder"
    theirs.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    saved(theirs, tmp_path / "a.pth")
    message = (
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME: StandardTransformerDecoder in the file, "
        "MultiScaleMaskedTransformerDecoder in the config"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(fresh(cfg), str(tmp_path / "a.pth"))


@pytest.mark.parametrize("key", ["EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE"])
def test_weights_of_another_swin(cfg, key, tmp_path):
    cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
    small = {"EMBED_DIM": 16, "DEPTHS": [1, 1, 1, 1], "NUM_HEADS": [1, 2, 4, 8], "WINDOW_SIZE": 4}
    other = {"EMBED_DIM": 32, "DEPTHS": [1, 1, 2, 1], "NUM_HEADS": [2, 2, 4, 8], "WINDOW_SIZE": 5}
    for name, value in small.items():
        cfg.MODEL.SWIN[name] = value
    theirs = cfg.clone()
    theirs.MODEL.SWIN[key] = other[key]
    saved(theirs, tmp_path / "a.pth")
    wanted = f"MODEL.SWIN.{key}: {other[key]} in the file, {small[key]} in the config"
    with pytest.raises(WeightsError) as error:
        load_weights(fresh(cfg), str(tmp_path / "a.pth"))
    assert wanted in str(error.value)


def test_a_negative_variance_is_refused(cfg, tmp_path):
    """Its root would make the network's output NaN."""
    saved(cfg, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    name = next(name for name in checkpoint["model"] if name.endswith("running_var"))
    checkpoint["model"][name][0] = -1
    write_checkpoint(checkpoint, tmp_path / "a.pth")
    model = fresh(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=f"{re.escape(name)} holds a negative variance"):
        load_weights(model, str(tmp_path / "a.pth"))
    assert_state(model, before)


def test_missing_and_unexpected_names_are_listed(cfg, tmp_path):
    state = fresh(cfg).state_dict()
    del state["backbone.stem.conv1.weight"]
    state["backbone.stem.extra"] = torch.zeros(1)
    write_checkpoint({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as error:
        load_weights(fresh(cfg), str(tmp_path / "a.pth"))
    text = str(error.value)
    assert "Only in the model (1):\n  backbone.stem.conv1.weight" in text
    assert "Only in the file (1):\n  backbone.stem.extra" in text


def test_what_follows_from_the_config_may_be_absent(cfg, tmp_path):
    state = fresh(cfg, 0).state_dict()
    weight = state.pop("criterion.empty_weight")
    state["pixel_mean"] = torch.zeros(3, 1, 1)
    state["backbone.stem.conv1.norm.num_batches_tracked"] = torch.tensor(3)
    write_checkpoint({"model": state}, tmp_path / "a.pth")
    model = fresh(cfg)
    load_weights(model, str(tmp_path / "a.pth"))
    assert torch.equal(model.criterion.empty_weight, weight)
    assert torch.equal(
        model.state_dict()["backbone.stem.conv1.weight"], state["backbone.stem.conv1.weight"]
    )
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)


def test_training_starts_from_a_backbone(cfg, tmp_path, caplog):
    torch.manual_seed(0)
    backbone = build_backbone(cfg).state_dict()
    imagenet = {name: tensor.numpy() for name, tensor in backbone.items()}
    imagenet["stem.fc.weight"] = torch.zeros(1000, 64).numpy()
    imagenet["stem.fc.bias"] = torch.zeros(1000).numpy()
    content = {"model": imagenet, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    model = fresh(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = str(tmp_path / "R-50.pkl")
    with pytest.raises(WeightsError, match="holds a backbone alone"):
        load_weights(model, path)
    assert_state(model, before)
    with caplog.at_level("INFO"):
        Checkpointer(model, for_training=True).load(path, checkpointables=[])
    assert "weights of a backbone: everything else starts from random values" in caplog.text
    wanted = {**before, **{f"backbone.{name}": tensor for name, tensor in backbone.items()}}
    assert_state(model, wanted)


def test_training_starts_from_a_model_of_other_classes(cfg, tmp_path, caplog):
    cfg.MODEL.MASK_FORMER.PILOTED.GROUPS = 2
    theirs = cfg.clone()
    theirs.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 80
    state = saved(theirs, tmp_path / "a.pkl")
    model = fresh(cfg)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        Checkpointer(model, for_training=True).load(str(tmp_path / "a.pkl"), checkpointables=[])
    assert "The file has 80 classes, the model 5: the classifier starts from random" in caplog.text
    classifier = [n for n in own if "class_" in n or "empty_weight" in n]
    assert_state(model, {**state, **{name: own[name] for name in classifier}})


@pytest.mark.parametrize("queries", [7, 25])
def test_training_starts_from_a_model_with_other_queries(cfg, queries, tmp_path, caplog):
    state = saved(cfg, tmp_path / "a.pth")  # 10 queries
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = queries
    model = fresh(cfg)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=f"QUERIES: 10 in the file, {queries} in the config"):
        load_weights(model, str(tmp_path / "a.pth"))
    with caplog.at_level("INFO"):
        Checkpointer(model, for_training=True).load(str(tmp_path / "a.pth"), checkpointables=[])
    rest = "the first 7 are kept" if queries == 7 else "the others start from random values"
    assert f"The file has 10 queries, the model {queries}: {rest}." in caplog.text
    for name in ("query_feat", "query_embed"):
        name = f"sem_seg_head.predictor.{name}.weight"
        state[name] = torch.cat((state[name], own[name][10:]))[:queries]
    assert_state(model, state)


def test_training_starts_from_a_model_with_fewer_levels(cfg, tmp_path, caplog):
    """Layers that look at the new level as much as at nothing give what they gave."""
    state = saved(cfg, tmp_path / "a.pth")
    prefix = "sem_seg_head.pixel_decoder."
    attention = f"{prefix}transformer.encoder.layers.0.self_attn."
    for name in ("sampling_offsets", "attention_weights"):
        for leaf in ("weight", "bias"):
            state[f"{attention}{name}.{leaf}"].normal_(std=0.1)
    write_checkpoint({"model": state}, tmp_path / "a.pth")
    three = fresh(cfg)
    load_weights(three, str(tmp_path / "a.pth"))
    levels = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = levels
    four = fresh(cfg)
    with pytest.raises(WeightsError, match="Only in the model"):
        load_weights(four, str(tmp_path / "a.pth"))
    with caplog.at_level("INFO"):
        Checkpointer(four, for_training=True).load(str(tmp_path / "a.pth"), checkpointables=[])
    assert "of the file encodes 3 levels, that of the model 4: what is of the finest" in caplog.text
    decoder = four.sem_seg_head.pixel_decoder
    layer = decoder.transformer.encoder.layers[0].self_attn
    with torch.no_grad():  # no weight for the finest level
        layer.attention_weights.bias.view(4, 4, 4)[:, 3] = -1e9
        image = torch.rand(1, 3, 64, 96)
        maps = decoder.forward_features(four.backbone(image))[2]
        wanted = three.sem_seg_head.pixel_decoder.forward_features(three.backbone(image))[2]
    for got, expected in zip(maps, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("for_training", [False, True])
@pytest.mark.parametrize("in_file", [False, True])
def test_pilots_are_not_needed_and_not_in_the_way(cfg, in_file, for_training, tmp_path, caplog):
    piloted = cfg.clone()
    piloted.MODEL.MASK_FORMER.PILOTED.GROUPS = 2
    state = saved(piloted if in_file else cfg, tmp_path / "a.pth")
    model = fresh(cfg if in_file else piloted)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level("INFO"):
        checkpointer = Checkpointer(model, for_training=for_training)
        checkpointer.load(str(tmp_path / "a.pth"), checkpointables=[])
    said = "in the file are left out" if in_file else "of mask-piloted training: these are random"
    assert said in caplog.text
    assert_state(model, {name: state.get(name, own[name]) for name in own})


def test_a_run_resumes_only_with_its_own_model(cfg, tmp_path):
    trainer = Trainer(cfg)
    trainer.train()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    with pytest.raises(WeightsError, match=r"NUM_CLASSES: 5 in the file, 7 in the config"):
        Trainer(cfg).resume_or_load(resume=True)


def test_the_same_checkpointer_loads_after_an_error(cfg, tmp_path):
    wanted = saved(cfg, tmp_path / "a.pth")
    checkpointer = Checkpointer(fresh(cfg))
    with pytest.raises(WeightsError):
        checkpointer.load(str(tmp_path / "b.pth"))
    checkpointer.load(str(tmp_path / "a.pth"))
    assert_state(checkpointer.model, wanted)


def test_a_crash_while_saving_leaves_the_older_checkpoint(cfg, tmp_path):
    class Unpicklable:
        def state_dict(self):
            return {"a": lambda: None}

    whole = Checkpointer(fresh(cfg), str(tmp_path))
    whole.save("model_0")
    before = (tmp_path / "model_0.pth").read_bytes()
    crashing = Checkpointer(fresh(cfg, 2), str(tmp_path), trainer=Unpicklable())
    with pytest.raises((AttributeError, pickle.PicklingError)):
        crashing.save("model_0")
    assert (tmp_path / "model_0.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "last_checkpoint",
        "model_0.pth",
    ]


def test_caffe2s_imagenet_weights(cfg, tmp_path):
    """Their batch norms have only scales and offsets, which include the statistics."""
    model = fresh(cfg)
    torch.manual_seed(0)
    wanted = {
        name: torch.randn_like(tensor)
        for name, tensor in model.state_dict().items()
        if name.startswith("backbone.") and name.endswith((".weight", ".bias"))
    }
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    pattern = re.compile(r"backbone\.(stem|res\d)\.(?:(\d+)\.)?(\w+)(\.norm)?\.(weight|bias)")
    blobs = {"fc1000_w": np.zeros((1000, 64)), "fc1000_b": np.zeros(1000)}
    for name, tensor in wanted.items():
        stage, block, layer, norm, kind = pattern.fullmatch(name).groups()
        if stage == "stem":
            blob = "res_conv1" if norm else "conv1"
        else:
            blob = f"{stage}_{block}_branch{branches[layer]}"
        blob += ("_bn_s" if kind == "weight" else "_bn_b") if norm else "_w"
        blobs[blob] = blobs[f"{blob}_momentum"] = tensor.numpy()
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Checkpointer(model, for_training=True).load(str(tmp_path / "R-50.pkl"), checkpointables=[])
    assert_state(model, {**before, **wanted})


def test_nothing_is_loaded_from_weights_of_other_types(cfg, tmp_path):
    model = fresh(cfg)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = "sem_seg_head.predictor.query_feat.weight"
    for change, message in (
        (lambda tensor: tensor.long(), r"is of torch\.int64, in the model of torch\.float32"),
        (lambda tensor: tensor > 0, r"is of torch\.bool"),
        (lambda tensor: tensor * float("nan"), "holds NaN"),
        (lambda tensor: tensor.double() * 1e200, "holds NaN or infinity"),
    ):
        state = fresh(cfg, 0).state_dict()
        state[name] = change(state[name] + 1)
        torch.save({"model": state}, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match=f"{name}.*{message}") as error:
            load_weights(model, str(tmp_path / "a.pth"))
        assert "a.pth" in str(error.value) and "\n" not in str(error.value)
        assert_state(model, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_with_a_line(cfg, tmp_path, caplog, dtype):
    state = fresh(cfg, 0).state_dict()
    changed = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    torch.save({"model": changed}, tmp_path / "a.pth")
    model = fresh(cfg)
    with caplog.at_level("INFO"):
        load_weights(model, str(tmp_path / "a.pth"))
    assert f"Tensors of {dtype} were converted." in caplog.text
    assert_state(model, {n: t.to(state[n].dtype) for n, t in changed.items()})


def test_no_name_is_no_weights(cfg):
    with pytest.raises(WeightsError, match="no weights are named"):
        load_weights(fresh(cfg), "")
