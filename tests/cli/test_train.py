"""`mask2former train`: what it finds in a folder decides what it trains."""

import json
import shutil

import pytest
import torch
from support import TINY

from mask2former import Mask2Former, load_config
from mask2former.cli.main import main
from mask2former.data.own_folder import recognise_folder
from mask2former.report.run_metrics import read_metrics


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_folder_decides_on_the_model(task, datasets, tmp_path, monkeypatch, capfd):
    data = tmp_path / f"shapes_{task}"  # Detectron2 opens a log of the same name once per process
    shutil.copytree(datasets / "synthetic_shapes", data)
    if task == "panoptic":
        arguments = ["--data", str(data)]  # it has annotations for all tasks, this one first
    elif task == "instance":
        arguments = ["--data", str(data), "--task", "instance"]
    else:
        data = tmp_path / "maps"
        for split in ("train", "val"):
            for kind, source in (("images", split), ("labels", f"semantic_{split}")):
                (data / kind).mkdir(parents=True, exist_ok=True)
                (data / kind / split).symlink_to(datasets / "synthetic_shapes" / source)
        file = datasets / "synthetic_shapes/annotations/panoptic_val.json"
        names = [c["name"] for c in json.loads(file.read_text())["categories"]]
        (data / "classes.txt").write_text("\n".join(names))
        arguments = ["--data", str(data)]
    monkeypatch.chdir(tmp_path)
    options = [*map(str, (*TINY, "TEST.EVAL_PERIOD", 4, "SOLVER.EMA_DECAY", 0.5))]
    arguments += ["--model", f"quickstart/{task}"]
    assert main(["train", *arguments, "--opts", *options, "INPUT.CROP.SIZE", "[64, 64]"]) == 0
    out = capfd.readouterr().out
    assert f"for {task} segmentation" in out
    assert f"quickstart/{task}.yaml, on cpu" in out
    folder = tmp_path / "output" / data.name
    assert f"Run: output/{data.name}" in out
    assert (folder / "model_final.pth").is_file()
    cfg = load_config(str(folder / "config.yaml"))
    assert cfg.SOLVER.BASE_LR == 0.0005  # the config's for 8 images; the user gave 2
    count = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert count == (5 if task == "instance" else 7)
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    metric = {"instance": "segm/AP", "panoptic": "panoptic_seg/PQ", "semantic": "sem_seg/mIoU"}
    assert metric[task] in last
    # An evaluation is a few lines here, and tables per class in the log.
    shown = out[out.index("Evaluation after 4 iterations (the best") :]
    assert metric[task] in shown.splitlines()[1]
    assert [line.split()[0] for line in shown.splitlines()[2:4]] == ["weights", "average"]
    log = (folder / "log.txt").read_text()
    assert "Start inference" in log and "| disk" in log
    assert "Start inference" not in out and "| disk" not in out


def test_iterations_scale_the_schedule_and_nothing_is_evaluated(datasets, tmp_path, capfd):
    """There is a validation set, but the user says `TEST.EVAL_PERIOD 0`."""
    options = ["--data", str(datasets / "synthetic_shapes"), "--task", "instance"]
    options += ["--output", str(tmp_path / "run"), "--iterations", "8"]
    tiny = dict(zip(TINY[::2], TINY[1::2], strict=True))
    del tiny["SOLVER.MAX_ITER"]
    del tiny["SOLVER.WARMUP_ITERS"]
    options += ["--model", "quickstart/instance"]
    assert (
        main(["train", *options, "--opts", *(str(x) for pair in tiny.items() for x in pair)]) == 0
    )
    cfg = load_config(str(tmp_path / "run/config.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (8, 1)
    written = sorted(path.name for path in (tmp_path / "run").glob("model_*.pth"))
    assert written == ["model_0000007.pth", "model_final.pth"]
    output = capfd.readouterr()
    assert f"mask2former predict {tmp_path / 'run'} photo.jpg" in output.out
    assert "TEST.EVAL_PERIOD 0: the validation set is not used" in output.out
    assert "Evaluation after" not in output.out + output.err
    rows = read_metrics(tmp_path / "run/metrics.json")
    assert rows and not any(name.startswith(("segm", "bbox")) for row in rows for name in row)


def test_a_folder_stands_for_its_best_weights(datasets, tmp_path):
    folder = tmp_path / "run"
    options = ["--data", str(datasets / "synthetic_shapes"), "--task", "instance"]
    options += ["--output", str(folder), "--model", "quickstart/instance", "--opts"]
    options += [*map(str, TINY), "TEST.EVAL_PERIOD", "2", "SOLVER.EARLY_STOPPING_PATIENCE", "9"]
    assert main(["train", *options]) == 0
    best = torch.load(folder / "model_best.pth", weights_only=True)["model"]
    final = torch.load(folder / "model_final.pth", weights_only=True)
    for values in final["model"].values():
        values.zero_()
    torch.save(final, folder / "model_final.pth")
    found = Mask2Former.from_pretrained(folder).network.state_dict()
    assert all(torch.equal(found[name], values) for name, values in best.items())
    (folder / "model_best.pth").unlink()
    found = Mask2Former.from_pretrained(folder).network.state_dict()
    assert not any(values.any() for values in found.values())


def test_the_folder_is_recognised_once(datasets, monkeypatch, capsys):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return recognise_folder(*arguments, **options)

    for module in ("data.own_folder", "engine.data_flags"):
        monkeypatch.setattr(f"mask2former.{module}.recognise_folder", counted)
    data = ["--data", str(datasets / "synthetic_shapes"), "--model", "quickstart/panoptic"]
    for verb in ("train", "find-lr"):
        with pytest.raises(SystemExit):
            main([verb, *data, "--opts", "INPUT.ALBUMENTATIONS", "absent.json"])
        assert len(calls) == 1
        assert "absent.json cannot be read" in capsys.readouterr().err
        calls.clear()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--data", "nowhere"], 1, "there is no such folder"),
        (["--data", "{data}", "--model", "R55"], 2, "no config is named 'R55'"),
        (["--data", "{data}", "--iterations", "0"], 2, "--iterations 0: a number above 0"),
        (["--data", "{data}", "--epochs", "nan"], 2, "--epochs nan: a number above 0"),
        (["--data", "{data}", "--epochs", "1", "--iterations", "1"], 2, "not allowed with"),
        (
            ["--data", "{data}", "--epochs", "1", "--opts", "SOLVER.MAX_ITER", "1"],
            2,
            "--epochs and SOLVER.MAX_ITER: give one of them",
        ),
        (["--data", "{data}", "--opts", "SOLVER.NONSENSE", "1"], 2, "SOLVER.NONSENSE"),
    ],
)
def test_mistakes(arguments, status, message, datasets, capsys):
    data = str(datasets / "synthetic_shapes")
    with pytest.raises(SystemExit) as end:
        main(["train", *(word.format(data=data) for word in arguments)])
    assert end.value.code == status
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("mask2former train: error: ")
    assert message in err


def test_a_mistake_in_two_processes_is_said_once(datasets, tmp_path, capfd):
    data = ["--data", str(datasets / "synthetic_shapes"), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        main(["train", *data, "--num-gpus", "2", "--opts", "INPUT.ALBUMENTATIONS", "absent.json"])
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert error.count("absent.json") == 1
    assert error.splitlines()[-1].startswith("mask2former train: error: INPUT.ALBUMENTATIONS")
    assert not (tmp_path / "run").exists()


def test_mistakes_of_the_run_itself(datasets, tmp_path, capfd):
    data = str(datasets / "synthetic_shapes")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model_final.pth").write_bytes(b"an earlier run")
    for verb, arguments in (
        ("train", ["--data", data, "--output", str(tmp_path / "run")]),
        ("evaluate", [str(tmp_path / "run"), "--data", data]),
    ):
        with pytest.raises(SystemExit) as end:
            main([verb, *arguments])
        assert end.value.code == 2
        last = capfd.readouterr().err.splitlines()[-1]
        assert last.startswith(f"mask2former {verb}: error: ")
        if verb == "train":  # it has --output, and train_net.py OUTPUT_DIR
            assert "OUTPUT_DIR" not in last and "run_2" in last
