"""The command line, as a user runs it on data of their own."""

import json
import subprocess
import sys

import pytest
from support import QUICKSTART, REPOSITORY, TINY

from mask2former.cli.train import main

CONFIGS = REPOSITORY / "configs/quickstart"
THINGS = ["disk", "ring", "rectangle", "triangle", "star"]


def train_net(*arguments):
    command = [sys.executable, str(REPOSITORY / "train_net.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


# A run of two iterations, whose weights are evaluated at the end
EVALUATED = ["SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 2, "SOLVER.EMA_DECAY", 0.0]


def own_data(folder, kind="instances"):
    arguments = []
    for split in ("train", "val"):
        arguments += [f"--{split}-json", folder / f"annotations/{kind}_{split}.json"]
        arguments += [f"--{split}-images", folder / split]
    return arguments


def test_train_resume_and_evaluate_on_own_json(shapes, tmp_path):
    out = tmp_path / "run"
    options = [*TINY, "OUTPUT_DIR", out, "SOLVER.CHECKPOINT_PERIOD", 2]
    first = train_net("--config-file", QUICKSTART, *own_data(shapes), *options)
    assert first.returncode == 0, first.stderr
    for name in ("config.yaml", "metrics.json", "model_final.pth", "metadata.json"):
        assert (out / name).exists(), name
    assert json.loads((out / "metadata.json").read_text())["thing_classes"] == THINGS

    # the recipe says what it chose, on the console and in the log
    for text in (first.stdout, (out / "log.txt").read_text()):
        assert "  SOLVER.BASE_LR  " in text and "  SOLVER.MAX_ITER  " not in text

    # a user's own images without objects are negative examples
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


def test_train_and_evaluate_on_own_panoptic_json(shapes, tmp_path):
    out = tmp_path / "run"
    arguments = own_data(shapes, "panoptic")
    for split in ("train", "val"):
        arguments += [f"--{split}-panoptic", shapes / f"panoptic_{split}"]
    options = [*TINY, "OUTPUT_DIR", out, *EVALUATED]
    first = train_net("--config-file", CONFIGS / "panoptic.yaml", *arguments, *options)
    assert first.returncode == 0, first.stderr
    log = (out / "log.txt").read_text()
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["stuff_classes"] == [*THINGS, "paper", "gravel"]
    assert list(metadata["thing_dataset_id_to_contiguous_id"].values()) == [0, 1, 2, 3, 4]

    second = train_net(
        *("--config-file", out / "config.yaml", "--eval-only"),
        *(*arguments[4:8], *arguments[10:], "MODEL.WEIGHTS", out / "model_final.pth"),
    )
    assert second.returncode == 0, second.stderr
    for text in (log, second.stdout):
        tasks = [line.split()[-1] for line in text.splitlines() if "Task: " in line]
        assert tasks == ["panoptic_seg", "bbox", "segm", "sem_seg"]
    assert results(log) == results(second.stdout)


def results(text):
    return [line.split("copypaste: ")[1] for line in text.splitlines() if "copypaste" in line]


def test_train_on_own_label_maps(shapes, tmp_path):
    out = tmp_path / "run"
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps([*THINGS, "paper", "gravel"]))
    arguments = ["--classes", classes]
    for split in ("train", "val"):
        arguments += [f"--{split}-images", shapes / split]
        arguments += [f"--{split}-labels", shapes / f"semantic_{split}"]
    options = [*TINY, "OUTPUT_DIR", out, *EVALUATED, "INPUT.CROP.SIZE", "[64, 64]"]
    result = train_net("--config-file", CONFIGS / "semantic.yaml", *arguments, *options)
    assert result.returncode == 0, result.stderr
    assert "copypaste: Task: sem_seg" in (out / "log.txt").read_text()
    assert "classes without pixels" not in result.stdout
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata == {"stuff_classes": [*THINGS, "paper", "gravel"], "ignore_label": 255}


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config-file"),
        (["--config-file", "no/such.yaml"], "no/such.yaml"),
        (["--config-file", QUICKSTART, "SOLVER.BASE_LRR", "1"], "SOLVER.BASE_LR"),
    ],
)
def test_config_mistakes_are_one_line(arguments, message):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert str(caught.value).startswith("error: ")
    assert message in str(caught.value)
