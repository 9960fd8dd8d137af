"""All formats, precisions and operators, and networks with windows."""

import shutil

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from support import REPOSITORY

from mask2former import Mask2Former, load_config
from mask2former.export.check import compare
from mask2former.export.onnx_model import to_onnx
from mask2former.export.program import ALL_OPEN, Network, trace
from mask2former.export.results import WithResults
from mask2former_runtime.networks import openvino_core


@pytest.mark.parametrize(
    ("file", "runtime"), [("mine.onnx", "onnxruntime"), ("mine.xml", "openvino")]
)
def test_the_operator_as_a_node(panoptic, picture, tmp_path, monkeypatch, capsys, file, runtime):
    """Its library is built beside the file, and nobody loads it without being told to."""
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    panoptic.export(tmp_path / file, operator="plugin")
    library = tmp_path / f"libmask2former_{runtime}.so"
    assert f"building {library.name}, beside the file" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"operators.*MASK2FORMER_OPERATOR_LIBRARY"):
        Mask2Former.from_pretrained(tmp_path / file)
    monkeypatch.setenv("MASK2FORMER_OPERATOR_LIBRARY", str(library))
    found = Mask2Former.from_pretrained(tmp_path / file).predict(picture)
    np.testing.assert_array_equal(found.label_map, panoptic.predict(picture).label_map)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("grid_sample.onnx", {"operator": "grid_sample"}, 0.9999),
        ("fp16.onnx", {"precision": "fp16"}, 0.99),
        ("int8.onnx", {"precision": "int8"}, 0.9),
        ("bf16.xml", {"precision": "bf16"}, 0.9),
        ("bf16.pt2", {"precision": "bf16"}, 0.97),
        ("aoti.pt2", {"format": "aoti"}, 0.9999),
    ],
)
def test_other_formats(trained, tmp_path, name, options, least):
    """Of a trained model: in a random one, rounding turns rows of the attention masks over.

    After so short a training, classes are nearly equal in a few percent of the pixels.
    """
    original, data = trained
    original.export(tmp_path / name, **options)
    model = Mask2Former.from_pretrained(tmp_path / name, allow_unsafe_weights=True)
    for image in sorted((data / "val").iterdir())[:5]:
        found, expected = (m.predict(image, task="semantic").label_map for m in (model, original))
        assert np.mean(found == expected) >= least


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_results_within_the_graph_equal_the_models(panoptic, picture, task):
    """In PyTorch; `test_a_fixed_size_and_results_as_outputs` has them in a file."""
    view = panoptic.network.only(task)
    image = torch.from_numpy(picture[:64, :64].transpose(2, 0, 1).copy())
    (expected,) = view([{"image": image}])
    images = ((image - view.pixel_mean) / view.pixel_std)[None]
    with torch.inference_mode():
        outputs = WithResults(Network(view), view, task)(images)
    if task == "semantic":
        (labels,) = outputs
        assert torch.equal(labels[0].long(), expected["sem_seg"].argmax(0))
    elif task == "instance":
        scores, labels, boxes, masks = (x[0] for x in outputs)
        wanted = expected["instances"]
        kept = scores > 0
        torch.testing.assert_close(scores[kept], wanted.scores[wanted.scores > 0])
        assert torch.equal(labels[kept], wanted.pred_classes[wanted.scores > 0])
        assert torch.equal(masks[kept], wanted.pred_masks[wanted.scores > 0])
        torch.testing.assert_close(boxes[kept], wanted.pred_boxes.tensor[wanted.scores > 0])
    else:
        segments, labels, scores = (x[0] for x in outputs)
        ids, infos = expected["panoptic_seg"]
        assert torch.equal(segments > 0, ids > 0)
        assert len(infos) == len(segments[segments > 0].unique())
        for info in infos:
            (number,) = segments[ids == info["id"]].unique()
            assert labels[number - 1] == info["category_id"]
            assert scores[number - 1].item() == pytest.approx(info["score"])
            assert torch.equal(segments == number, ids == info["id"])


def opened(runtime, model):
    """Return what a serialised ONNX model computes in a runtime, of and as tensors."""
    if runtime == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(model)
        return lambda x: map(torch.from_numpy, session.run(None, {"images": x.numpy()}))
    core = openvino_core(None)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", exact)
    return lambda x: map(torch.from_numpy, compiled({"images": x.numpy()}).to_tuple())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_windows_with_open_sizes(runtime):
    """224 pixels need no padding to whole windows of 7 x 7, others do."""
    pytest.importorskip(runtime)
    cfg = load_config(
        str(REPOSITORY / "configs/coco/instance-segmentation/swin/"
            "maskformer2_swin_tiny_bs16_50ep.yaml"),
        ["MODEL.SWIN.DEPTHS", (2, 2, 1, 1), "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 1,
         "MODEL.MASK_FORMER.DEC_LAYERS", 3, "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ()],
    )  # fmt: skip
    torch.manual_seed(0)
    network = Network(build_model(cfg)).eval()
    program = trace(network, size_divisibility=32, fixed=ALL_OPEN, operator="gather")
    model = to_onnx(program, ("logits", "masks"), opset=18, precision="fp32").SerializeToString()
    run = opened(runtime, model)
    for size in ((1, 224, 448), (3, 96, 64), (2, 160, 224)):
        images = torch.randn(size[0], 3, *size[1:])
        found = compare(network, run, images, ("logits", "masks"))
        assert found.equal_classes == 1 and found.equal_pixels > 0.9999, found
