"""Exported files against the models that they come from, in the runtimes that users have."""

import copy
import json
import zipfile

import numpy as np
import pytest
import torch

from mask2former import Mask2Former
from mask2former.engine.start import run_arguments, start
from mask2former.export import Options, export_model, fixed_sizes
from mask2former.serve.model import ServedModel
from mask2former.utils.digest import weights_digest
from mask2former_runtime import load as load_in_runtime
from mask2former_runtime.errors import ExportError


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.label_map, expected.label_map)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_way_to_use_the_file_gives_the_same(panoptic, onnx_file, picture, task):
    threshold = None if task == "semantic" else 0.05
    expected = panoptic.predict(picture, task=task, threshold=threshold)
    assert len(expected) > 0
    for model in (Mask2Former.from_pretrained(onnx_file), load_in_runtime(onnx_file)):
        assert (model.task, model.names) == ("panoptic", panoptic.names)
        assert_same(model.predict(picture, task=task, threshold=threshold), expected)


def test_the_server_names_the_weights_that_a_file_is_from(panoptic, onnx_file):
    served = ServedModel(Mask2Former.from_pretrained(onnx_file), "mine.onnx")
    assert served.version == f"mine.onnx-{weights_digest(panoptic.network)[:8]}"


def test_openvino(panoptic, picture, tmp_path):
    panoptic.export(tmp_path / "mine.xml", precision="fp16")
    expected = panoptic.predict(picture, task="semantic").label_map
    for model in (
        Mask2Former.from_pretrained(tmp_path / "mine.xml"),
        load_in_runtime(tmp_path / "mine.xml"),
    ):
        found = model.predict(picture, task="semantic").label_map
        assert np.mean(found == expected) > 0.99
    assert (tmp_path / "mine.bin").stat().st_size < 0.6 * 4 * sum(
        p.numel() for p in panoptic.network.parameters()
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.bin", "mine.xml"]
    content = bytearray((tmp_path / "mine.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "mine.bin").write_bytes(content)
    with pytest.raises(ExportError, match=r"mine\.bin differs from the file that was exported"):
        load_in_runtime(tmp_path / "mine.xml")


def test_the_file_says_what_it_is(onnx_file, panoptic):
    import onnx

    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    (entry,) = model.metadata_props
    content = json.loads(entry.value)
    assert content["license"] == "CC0"
    assert content["classes"]["names"] == panoptic.names
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(node.op_type == "GridSample" for node in model.graph.node)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dimensions] == ["batch", 3, "height", "width"]


def test_pt2_runs_only_where_it_is_trusted(panoptic, picture, tmp_path):
    file = tmp_path / "mine.pt2"
    panoptic.export(file)
    with pytest.raises(ValueError, match=r"mine\.pt2.*allow-unsafe-weights"):
        Mask2Former.from_pretrained(file)
    model = Mask2Former.from_pretrained(file, allow_unsafe_weights=True)
    assert_same(model.predict(picture), panoptic.predict(picture))
    with zipfile.ZipFile(file) as archive:
        assert any(name.endswith("mask2former.json") for name in archive.namelist())


def test_a_network_with_a_number_for_a_size_is_refused(panoptic, tmp_path):
    class BakedIn(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, features):
            size = int(features["res2"].shape[-1])
            return self.head(
                {k: f[..., : size * 8 // 2**i] for i, (k, f) in enumerate(features.items())}
            )

    model = panoptic._model
    head = model.predictor.model.sem_seg_head
    model.predictor.model.sem_seg_head = BakedIn(head)
    try:
        with pytest.raises(ValueError, match=r"(open sizes|was not written).*--dynamic none"):
            panoptic.export(tmp_path / "mine.onnx")
    finally:
        model.predictor.model.sem_seg_head = head
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(panoptic, tmp_path, monkeypatch):
    from mask2former.export import onnx_model

    translate = onnx_model.to_onnx

    def spoiled(*arguments, **options):
        proto = translate(*arguments, **options)
        for tensor in proto.graph.initializer:
            if len(tensor.dims) == 2:  # linear layers
                tensor.raw_data = bytes(len(tensor.raw_data))
        return proto

    monkeypatch.setattr(onnx_model, "to_onnx", spoiled)
    with pytest.raises(ValueError, match=r"mine\.onnx was not written.*classes"):
        panoptic.export(tmp_path / "mine.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tensorrt"}, "no format 'tensorrt'.*onnx"),
        ({"precision": "bf16"}, "onnx files can be fp32"),
        ({"operator": "none"}, "no operator 'none'"),
        ({"operator": "grid_sample", "opset": 18}, "opset 20"),
        ({"dynamic": ("batch",)}, "--size"),
        ({"dynamic": ("depth",)}, "depth"),
        ({"dynamic": (), "size": (100, 64)}, "height 100.*multiples of 32"),
        ({"format": "openvino"}, r"ends in \.xml"),
    ],
)
def test_options_that_do_not_fit(panoptic, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        panoptic.export(tmp_path / "mine.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(panoptic, tmp_path):
    (tmp_path / "mine.onnx").write_text("precious")
    with pytest.raises(ValueError, match="overwrite"):
        panoptic.export(tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "precious"


def test_what_an_exported_file_cannot_do(onnx_file, tmp_path):
    model = Mask2Former.from_pretrained(onnx_file)
    for action in (
        lambda: model.train("data", output=tmp_path),
        lambda: start(run_arguments(config_file=str(onnx_file))),
        lambda: model.export(tmp_path / "again.onnx"),
        lambda: model.save_pretrained(tmp_path / "hf"),
        lambda: model.bfloat16(),
    ):
        with pytest.raises(ValueError, match="export"):
            action()
    with pytest.raises(ValueError, match=r"MODEL\.RESNETS\.DEPTH.*export"):
        Mask2Former.from_pretrained(onnx_file, overrides=["MODEL.RESNETS.DEPTH", 101])
    changed = Mask2Former.from_pretrained(onnx_file, overrides=["INPUT.MIN_SIZE_TEST", 96])
    assert changed.cfg.INPUT.MIN_SIZE_TEST == 96


@pytest.mark.parametrize(
    ("config", "message"),
    [(None, "does not hold its model's config"), ("MODEL: [", "cannot be used"),
     ("MODEL: {UNHEARD_OF: 1}", "cannot be used: its config.*UNHEARD_OF")],
)  # fmt: skip
def test_a_file_with_another_config(onnx_file, tmp_path, config, message):
    import onnx

    model = onnx.load(onnx_file)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), "config": config})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=message) as raised:
        Mask2Former.from_pretrained(tmp_path / "other.onnx")
    assert "other.onnx" in str(raised.value) and "\n" not in str(raised.value)


def test_a_fixed_size_and_results_as_outputs(panoptic, picture, tmp_path):
    import onnxruntime

    file = tmp_path / "fixed.onnx"
    model = panoptic._model
    options = Options(format="onnx", fixed=fixed_sizes((), (96, 64)), with_postprocessing=True)
    (first, second) = export_model(model, file, options)
    assert first.equal_pixels == second.equal_pixels == 1
    session = onnxruntime.InferenceSession(file)
    assert [d.shape for d in session.get_inputs()] == [[1, 3, 96, 64]]
    assert [d.name for d in session.get_outputs()] == ["segments", "labels", "scores"]
    with pytest.raises(ValueError, match="without"):
        Mask2Former.from_pretrained(file)


def test_a_fixed_size_takes_images_as_large_as_fit(fixed_file, picture):
    """The picture of 81 x 66 pixels is made smaller, and padded, both here and in the runtime."""
    expected = load_in_runtime(fixed_file).predict(picture)
    model = Mask2Former.from_pretrained(fixed_file)
    assert_same(model.predict(picture), expected)
    assert model._model.predictor.network_size(81, 66) == (64, 52)
    with pytest.raises(ValueError, match=r"up to 64 x 96 pixels.*128 x 32.*MIN_SIZE_TEST"):
        model.network([{"image": torch.zeros(3, 100, 20)}])


def test_suppression_of_doubles_is_no_part_of_a_program(panoptic):
    from mask2former.export.results import WithResults

    model = copy.copy(panoptic.network)
    model.mask_nms = 0.5
    with pytest.raises(ValueError, match=r"TEST\.MASK_NMS 0\.5 cannot be a part of a file"):
        WithResults(torch.nn.Identity(), model, "instance")
