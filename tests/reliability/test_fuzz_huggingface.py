"""Hugging Face folders and `metadata.json` are a config or one line, before a model is built."""

import functools
import json
import os
import random
import time
import zlib

import pytest
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from fuzzing import HOSTILE_VALUES, cases, mutated_bytes, mutated_json, run_cases

from mask2former import add_maskformer2_config
from mask2former.checkpoint.huggingface import class_names_of, hf_config, merge_hf_config
from mask2former.checkpoint.huggingface.preprocessor import hf_preprocessor
from mask2former.config.validate import validate
from mask2former.data.metadata import find_classes, read_metadata, write_metadata
from mask2former.structures import Classes

STAGES = ["stage1", "stage2", "stage3", "stage4"]
CONFIG = {
    "model_type": "mask2former",
    "mask2former_task": "panoptic",
    "mask2former_thing_classes": [0, 2],
    "_name_or_path": "mine",
    "id2label": {"0": "cat", "1": "sky", "2": "dog"},
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "num_queries": 5,
    "dropout": 0.1,
    "ignore_value": 255,
    "class_weight": 2.0,
}
SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 224,
    "out_features": STAGES,
}
RESNET = {
    "model_type": "resnet",
    "depths": [3, 4, 6, 3],
    "hidden_sizes": [16, 32, 64, 128],
    "embedding_size": 8,
    "out_features": STAGES,
}
PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 64, "longest_edge": 128},
    "size_divisor": 32,
    "resample": 2,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
METADATA = {
    "thing_classes": ["cat", "dog"],
    "stuff_classes": ["cat", "sky", "dog"],
    "thing_dataset_id_to_contiguous_id": {"1": 0, "7": 2},
    "stuff_dataset_id_to_contiguous_id": {"1": 0, "3": 1, "7": 2},
    "stuff_colors": [[0, 0, 0], [255, 255, 255], [1, 2, 3]],
    "ignore_label": 255,
}


def write_folder(folder, config, preprocessor):
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        whole = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(whole)


def refused(folder, build=True):
    """Use a folder as a command does, and return the message of the error, or ""."""
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    try:
        merge_hf_config(cfg, folder)
        validate(cfg)
    except ValueError as error:
        text = str(error)
        text.encode()
        assert len(text) < 1000 and ("\n" not in text or "must be" in text), text
        return text
    cfg.MODEL.DEVICE = "meta"
    if build:
        build_model(cfg)
    names = class_names_of(folder)
    "".join(names).encode()
    things = list(range(len(names)))
    json.dumps([hf_config(cfg, names, things), hf_preprocessor(cfg)])
    return ""


def damaged_folder(folder, seed):
    rng = random.Random(seed)
    config = {**CONFIG, "backbone_config": rng.choice([SWIN, RESNET])}
    contents = [config, PREPROCESSOR]
    number = rng.random() < 0.3
    if rng.random() < 0.7:
        contents[number] = mutated_json(contents[number], rng)
    else:
        contents[number] = mutated_bytes(json.dumps(contents[number]).encode(), rng)
    write_folder(folder, *contents)
    refused(folder)


def use_metadata(path):
    try:
        metadata = read_metadata(path)
    except ValueError as error:
        text = str(error)
        text.encode()
        assert "\n" not in text and len(text) < 1000 and path.name in text, text
        return text
    for count in (2, 3, None):
        classes = Classes.from_metadata(metadata, count)
        if classes is not None:
            repr(classes.to_categories()).encode()
            for task in ("instance", "semantic", "panoptic"):
                assert Classes.from_metadata(classes.to_metadata(task)) is not None
    return ""


def damaged_metadata(folder, seed):
    rng = random.Random(seed)
    path = folder / "metadata.json"
    if rng.random() < 0.7:
        path.write_text(json.dumps(mutated_json(METADATA, rng)))
    else:
        path.write_bytes(mutated_bytes(json.dumps(METADATA).encode(), rng))
    use_metadata(path)


def any_case(folder, seed):
    (damaged_metadata if seed % 3 == 0 else damaged_folder)(folder, seed)


def test_folders_are_read_or_refused(tmp_path):
    run_cases(functools.partial(any_case, tmp_path), cases(600))


@pytest.mark.parametrize("backbone", [SWIN, RESNET, None], ids=["swin", "resnet", "default"])
def test_sound_folders(tmp_path, backbone):
    write_folder(tmp_path, {**CONFIG, "backbone_config": backbone}, PREPROCESSOR)
    assert not refused(tmp_path)
    write_folder(tmp_path, {**CONFIG, "backbone_config": backbone}, {})
    assert not refused(tmp_path)


def places(content, prefix=()):
    for key, value in content.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from places(value, (*prefix, key))


def replaced(content, place, value):
    key, *rest = place
    return {**content, key: replaced(content[key], rest, value) if rest else value}


WHOLE = {**CONFIG, "backbone_config": SWIN}


@pytest.mark.parametrize("place", list(places(WHOLE)), ids=".".join)
def test_every_value_of_a_config_that_could_be_anything(tmp_path, place):
    for value in (*HOSTILE_VALUES, 100_000, [[[[]]]], "a" * 10**6, "\n" * 2000, [1] * 10**5):
        write_folder(tmp_path, replaced(WHOLE, place, value), PREPROCESSOR)
        refused(tmp_path, build=zlib.crc32(repr(value)[:50].encode()) % 8 == 0)


@pytest.mark.parametrize("place", list(places(PREPROCESSOR)), ids=".".join)
def test_every_value_of_a_preprocessor_that_could_be_anything(tmp_path, place):
    for value in (*HOSTILE_VALUES, 100_000, [[[[]]]], "a" * 10**6):
        write_folder(tmp_path, WHOLE, replaced(PREPROCESSOR, place, value))
        refused(tmp_path, build=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder_layers", 100_000), ("decoder_layers", 0), ("num_queries", 10**9),
        ("num_queries", True), ("hidden_dim", 2.0), ("dropout", float("nan")),
        ("class_weight", float("inf")), ("class_weight", 10**400), ("mask2former_task", []),
        ("mask2former_thing_classes", [[0]]), ("mask2former_thing_classes", [-1]),
        ("mask2former_thing_classes", [3]), ("id2label", {"0": "\ud800"}),
        ("id2label", {"0": None}), ("id2label", [1]), ("backbone_config", "swin"),
        ("_name_or_path", 5), ("num_attention_heads", 5), ("feature_size", 36),
    ],
)  # fmt: skip
def test_the_key_is_named(tmp_path, key, value):
    write_folder(tmp_path, {**WHOLE, key: value}, PREPROCESSOR)
    before = time.monotonic()
    text = refused(tmp_path)
    assert "config.json" in text and (key in text), text
    assert time.monotonic() - before < 2


def test_models_that_fit_no_memory_are_refused(tmp_path):
    large = {"hidden_dim": 8192, "decoder_layers": 100, "dim_feedforward": 65536}
    write_folder(tmp_path, {**WHOLE, **large}, PREPROCESSOR)
    assert "parameters; at most" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a":' * 10**5, b"", b"null", b"\xff", b"1"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metadata.json"])
def test_files_of_other_content(tmp_path, name, content):
    write_folder(tmp_path, WHOLE, PREPROCESSOR)
    (tmp_path / name).write_bytes(content)
    text = use_metadata(tmp_path / name) if name == "metadata.json" else refused(tmp_path)
    assert name in text


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metadata.json"])
def test_pipes_and_folders_in_place_of_files(tmp_path, name):
    write_folder(tmp_path, WHOLE, PREPROCESSOR)
    (tmp_path / name).unlink(missing_ok=True)
    for make in (os.mkfifo, os.mkdir):
        make(tmp_path / name)
        text = use_metadata(tmp_path / name) if name == "metadata.json" else refused(tmp_path)
        assert name in text
        (tmp_path / name).unlink() if make is os.mkfifo else (tmp_path / name).rmdir()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thing_classes", "cat"), ("thing_classes", [1]), ("stuff_classes", ["\ud800"]),
        ("thing_dataset_id_to_contiguous_id", [0]), ("stuff_colors", [[0, 0, 256]]),
        ("thing_dataset_id_to_contiguous_id", {"1": 10**12}), ("stuff_colors", [0, 0, 0]),
        ("thing_dataset_id_to_contiguous_id", {"1": -1}), ("stuff_colors", [[True, 0, 0]]),
        ("thing_dataset_id_to_contiguous_id", {"1.5": 0}), ("ignore_label", "255"),
        ("thing_dataset_id_to_contiguous_id", {"9" * 5000: 0}), ("ignore_label", 1.5),
        ("thing_dataset_id_to_contiguous_id", {"1": 0.5}), ("ignore_label", 10**30),
    ],
)  # fmt: skip
def test_the_key_of_metadata_is_named(tmp_path, key, value):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({**METADATA, key: value}))
    assert repr(key) in use_metadata(path)


def test_100_000_classes_take_no_time(tmp_path):
    count = 100_000
    names = {str(i): f"class number {i}" for i in range(count)}
    config = {"mask2former_thing_classes": list(range(0, count, 2)), "id2label": names}
    write_folder(tmp_path, {**WHOLE, **config}, PREPROCESSOR)
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    before = time.process_time()
    merge_hf_config(cfg, tmp_path)
    write_metadata(tmp_path / "metadata.json", cfg.DATASETS.TEST[0])
    classes = find_classes(cfg, str(tmp_path / "config.yaml"))
    assert len(classes) == count and len(classes.things) == count // 2
    hf_config(cfg, classes.names, sorted(classes.things))
    cfg.MODEL.DEVICE = "meta"
    build_model(cfg)
    assert time.process_time() - before < 4  # twice what it may take alone
    MetadataCatalog.pop(cfg.DATASETS.TEST[0])
