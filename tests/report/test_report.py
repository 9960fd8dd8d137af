"""Reports of real evaluations: what they show is what the evaluators found."""

import argparse
from pathlib import Path

import pytest
import torch
from html_pages import assert_self_contained, parse, texts
from support import QUICKSTART, TINY

from mask2former import load_config
from mask2former.engine import Trainer
from mask2former.engine.setup import check_report_folder
from mask2former.report import REPORT_FILE, Report

HEADINGS = {
    "instance": ["Instances"],
    "panoptic": ["Panoptic segments", "Instances", "Semantic classes"],
    "semantic": ["Semantic classes"],
}
HEADLINE = {
    "instance": ("segm", "AP", "mask AP"),
    "panoptic": ("panoptic_seg", "PQ", "PQ"),
    "semantic": ("sem_seg", "mIoU", "mIoU"),
}


@pytest.mark.parametrize("task", HEADINGS)
def test_of_an_evaluation(task, shapes, tmp_path):
    torch.manual_seed(0)
    config = QUICKSTART.with_name(f"{task}.yaml")
    cfg = load_config(str(config), [*TINY, "OUTPUT_DIR", str(tmp_path)])
    report = Report(cfg, "Evaluation")
    results = Trainer.test(cfg, Trainer.build_model(cfg), report=report)
    path = report.write(tmp_path / "new folder")
    page = path.read_text("utf-8")
    assert_self_contained(page)
    tree = parse(page)
    headings = texts(tree, "h2")
    assert [h for h in headings if h not in ("Results", "Images", "Config")] == HEADINGS[task]
    assert "Images" in headings
    key, metric, label = HEADLINE[task]
    numbers = dict(zip(texts(tree, "dt"), texts(tree, "dd"), strict=True))
    assert numbers[label] == f"{results[key][metric]:.1f}"
    assert numbers["evaluated on"] == cfg.DATASETS.TEST[0]
    pictures = [e for e in tree.iter() if str(e.tag).endswith("}img")]
    assert len(pictures) == 4  # all images of the data set
    assert len(page) < 10_000_000
    assert not list(path.parent.glob(".*"))


@pytest.mark.parametrize("task", HEADINGS)
def test_training_ends_with_a_report(task, shapes, tmp_path):
    config = QUICKSTART.with_name(f"{task}.yaml")
    cfg = load_config(str(config), [*TINY, "OUTPUT_DIR", str(tmp_path), "TEST.REPORT", True])
    torch.manual_seed(1)
    trainer = Trainer(cfg)
    trainer.train()
    page = (tmp_path / REPORT_FILE).read_text("utf-8")
    assert_self_contained(page)
    tree = parse(page)
    headings = texts(tree, "h2")
    assert headings[:3] == ["Training", "Results", "Images"]
    assert headings[-2:] == ["Training data", "Config"]
    parts = texts(tree, "h3")
    assert "Losses of the last prediction, weighted" in parts and "Learning rate" in parts
    assert "Metrics on the validation set" in parts and "Training samples" in parts
    numbers = dict(zip(texts(tree, "dt"), texts(tree, "dd"), strict=True))
    assert numbers["images"] == "12" and numbers["started from"] == "random"
    pictures = [e for e in tree.iter() if str(e.tag).endswith("}img")]
    assert len(pictures) == 4 + 8
    # The weights are those of a run without a report.
    torch.manual_seed(1)
    other = load_config(str(config), [*TINY, "OUTPUT_DIR", str(tmp_path / "other")])
    plain = Trainer(other)
    plain.train()
    assert not (tmp_path / "other" / REPORT_FILE).exists()
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, trainer.model.state_dict()[name]), name


def test_a_run_whose_report_fails_is_complete(tiny_cfg, caplog):
    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.TEST.REPORT = True
    trainer = Trainer(cfg)
    Path(cfg.OUTPUT_DIR, REPORT_FILE).mkdir(parents=True)
    trainer.train()
    assert "The report could not be written" in caplog.text
    assert Path(cfg.OUTPUT_DIR, "model_final.pth").is_file()


def test_the_folder_of_a_report_is_checked_before_the_evaluation(tmp_path):
    def check(report, eval_only=True):
        check_report_folder(argparse.Namespace(report=str(report), eval_only=eval_only))

    check(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    with pytest.raises(ValueError, match="--report needs --eval-only"):
        check(tmp_path, eval_only=False)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: File exists"):
        check(tmp_path / "file")
    with pytest.raises(ValueError, match=r"file/sub: Not a directory"):
        check(tmp_path / "file/sub")
