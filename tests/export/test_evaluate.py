"""Exported files are evaluated as the models that they come from."""

import numpy as np
import pytest

from mask2former import Mask2Former
from mask2former.cli.main import main
from mask2former.utils.device import has_fast_bfloat16

FIGURES = [("panoptic_seg", "PQ"), ("segm", "AP"), ("bbox", "AP"), ("sem_seg", "mIoU")]
# A random network is not sure of anything: PQ would be 0.
LOW = ["MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.1]


def figures(model, data, overrides=(), **more):
    results = model.evaluate(data, task="panoptic", overrides=overrides, **more)
    return [results[kind][name] for kind, name in FIGURES]


def test_an_exported_file_has_the_figures_of_its_model(panoptic, onnx_file, datasets):
    """With the classes that the file names, beside which there is no metadata.json."""
    data = datasets / "synthetic_shapes"
    found = figures(Mask2Former.from_pretrained(onnx_file), data, LOW)
    np.testing.assert_allclose(found, figures(panoptic, data, LOW), atol=1e-3)
    assert max(found) > 0


def test_the_command(onnx_file, datasets, tmp_path, capfd):
    data = str(datasets / "synthetic_shapes")
    file = tmp_path / "mine.onnx"
    file.symlink_to(onnx_file)
    assert main(["evaluate", str(file), "--data", data, "--task", "panoptic"]) == 0
    assert "mIoU" in capfd.readouterr().out
    assert (tmp_path / "evaluation/synthetic_shapes_mine.onnx/inference").is_dir()


def test_images_that_do_not_fit_are_one_line(fixed_file, datasets, tmp_path, capfd):
    arguments = ["evaluate", str(fixed_file), "--data", str(datasets / "synthetic_shapes")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--output", str(tmp_path / "out"), "--opts", "INPUT.MIN_SIZE_TEST", "96",
              "INPUT.MAX_SIZE_TEST", "96"])  # fmt: skip
    assert end.value.code == 1
    (line,) = [x for x in capfd.readouterr().err.splitlines() if "error:" in x]
    assert "up to 64 x 96 pixels, and one has 96 x 96: set INPUT.MIN_SIZE_TEST" in line


def test_the_precision_of_an_evaluation(panoptic, onnx_file, datasets):
    """As that of predictions, or as asked for."""
    data = datasets / "synthetic_shapes"
    plain = figures(panoptic, data, LOW)
    mixed = figures(panoptic, data, [*LOW, "SOLVER.AMP.ENABLED", True])
    assert plain != mixed
    found = figures(panoptic, data, LOW, precision="bf16")
    assert found == (mixed if has_fast_bfloat16() else plain)
    for wanted, message in (("fp16", "float16 is for GPUs"), ("int8", "precision is 'int8'")):
        with pytest.raises(ValueError, match=message):
            panoptic.evaluate(data, task="panoptic", precision=wanted)
    with pytest.raises(ValueError, match=r"mine.onnx has that of its export"):
        Mask2Former.from_pretrained(onnx_file).evaluate(data, precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine.onnx", "mine.xml"])
def test_figures_of_a_trained_model(trained, tmp_path, name):
    model, data = trained
    model.export(tmp_path / name)
    expected = figures(model, data)
    assert min(expected) > 3
    found = figures(Mask2Former.from_pretrained(tmp_path / name), data)
    np.testing.assert_allclose(found, expected, atol=0.05)
