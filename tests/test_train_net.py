"""The command line, as a user runs it on data of their own."""

import json
import subprocess
import sys

import pytest
from support import QUICKSTART, REPOSITORY, TINY


def train_net(*arguments):
    command = [sys.executable, str(REPOSITORY / "train_net.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def own_data(folder):
    arguments = []
    for split in ("train", "val"):
        arguments += [f"--{split}-json", folder / f"annotations/instances_{split}.json"]
        arguments += [f"--{split}-images", folder / split]
    return arguments


def test_train_resume_and_evaluate_on_own_json(shapes, tmp_path):
    out = tmp_path / "run"
    options = [*TINY, "OUTPUT_DIR", out, "SOLVER.CHECKPOINT_PERIOD", 2]
    first = train_net("--config-file", QUICKSTART, *own_data(shapes), *options)
    assert first.returncode == 0, first.stderr
    for name in ("config.yaml", "metrics.json", "model_final.pth", "metadata.json"):
        assert (out / name).exists(), name
    classes = json.loads((out / "metadata.json").read_text())["thing_classes"]
    assert classes == ["disk", "ring", "rectangle", "triangle", "star"]

    # in a set of one's own, images without objects are there on purpose
    assert "FILTER_EMPTY_ANNOTATIONS: false" in (out / "config.yaml").read_text()

    more = [*options, "SOLVER.MAX_ITER", 6]
    second = train_net("--config-file", QUICKSTART, *own_data(shapes), "--resume", *more)
    assert second.returncode == 0, second.stderr
    assert "Starting training from iteration 4" in second.stdout

    third = train_net(
        *("--config-file", out / "config.yaml", *own_data(shapes)[4:], "--eval-only"),
        *("MODEL.WEIGHTS", out / "model_final.pth"),
    )
    assert third.returncode == 0, third.stderr
    assert "copypaste: Task: segm" in third.stdout


def test_everything_wrong_is_reported_before_training(shapes, tmp_path):
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    content["annotations"][0]["category_id"] = 77
    content["annotations"][1]["segmentation"] = [[1.0, 2.0, 3.0]]
    content["images"][0]["file_name"] = "absent.jpg"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    arguments = own_data(shapes)
    arguments[1] = broken
    options = [*TINY, "OUTPUT_DIR", tmp_path / "run"]
    result = train_net("--config-file", QUICKSTART, *arguments, *options)
    assert result.returncode == 1
    report = result.stderr
    assert "Traceback" not in report
    for part in ("broken.json", "77", "absent.jpg", str(content["annotations"][1]["id"])):
        assert part in report
    assert not (tmp_path / "run").exists()


def test_half_of_the_data_arguments_is_an_error(shapes, tmp_path):
    result = train_net("--config-file", QUICKSTART, *own_data(shapes)[:2], *TINY)
    assert result.returncode == 1
    assert "--train-images and --val-json and --val-images" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config-file"),
        (["--config-file", "no/such.yaml"], "no/such.yaml"),
        (["--config-file", QUICKSTART, "SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LR"),
    ],
)
def test_config_mistakes_are_one_line(arguments, message):
    result = train_net(*arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
