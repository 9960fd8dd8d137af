"""`mask2former convert-data`, and --format of the verbs that read data."""

import shutil
import subprocess
import sys

import pytest
from format_sets import write_coco

from mask2former.cli.main import main

WRITER = """
import sys, time
from pathlib import Path
from mask2former_runtime.files import moved_at_the_end

with moved_at_the_end(Path(sys.argv[1])) as folder:
    (folder / "a").mkdir()
    (folder / "a" / "b").write_text("unfinished")
    print("begun", flush=True)
    time.sleep(60)
"""


def failure(*arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return end.value.code, capsys.readouterr().err


def test_there_and_what_is_lost(tmp_path, capsys):
    source = write_coco(tmp_path / "coco")
    assert main(["convert-data", str(source), str(tmp_path / "new"), "--to", "yolo"]) == 0
    out = capsys.readouterr().out
    assert "COCO instance JSON, for instance segmentation" in out
    assert "left out: 1 crowd region" in out
    assert out.endswith("new: YOLO segmentation\n")
    assert main(["check", "--data", str(tmp_path / "new")]) == 0
    assert "6 images" not in (out := capsys.readouterr().out) and "4 images" in out
    status, err = failure("convert-data", source, tmp_path / "new", "--to", "voc", capsys=capsys)
    assert (status, "exists already" in err) == (1, True)


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(tmp_path, capsys):
    source, new = write_coco(tmp_path / "coco"), tmp_path / "new"
    command = ["convert-data", str(source), str(new), "--to", "yolo"]
    writer = [sys.executable, "-c", WRITER, str(new)]
    with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        status, err = failure(*command, capsys=capsys)
        assert status == 1 and "to which another run is writing" in err
        (left,) = new.iterdir()
        assert (left / "a" / "b").exists()
        process.kill()
    assert left.exists()
    assert main(command) == 0
    assert not left.exists()
    assert main(["check", "--data", str(new)]) == 0


def test_broken_data_is_not_converted(tmp_path, capsys):
    source = write_coco(tmp_path / "coco")
    (source / "train/train_0.png").unlink()
    status, err = failure("convert-data", source, tmp_path / "new", "--to", "voc", capsys=capsys)
    assert status == 1 and "train_0.png" in err
    assert not (tmp_path / "new").exists()


def test_format(tmp_path, capsys):
    source = write_coco(tmp_path / "coco")
    main(["convert-data", str(source), str(tmp_path / "new"), "--to", "yolo"])
    shutil.copytree(source, tmp_path / "new", dirs_exist_ok=True)
    status, err = failure("check", "--data", tmp_path / "new", capsys=capsys)
    assert status == 1 and "Choose one with --format" in err
    assert main(["check", "--data", str(tmp_path / "new"), "--format", "yolo"]) == 0
    assert "YOLO segmentation" in capsys.readouterr().out
    status, err = failure("check", "--data", source, "--format", "nonsense", capsys=capsys)
    assert status == 2 and "yolo" in err
