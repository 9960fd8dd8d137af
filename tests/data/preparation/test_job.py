"""What all preparations share: going on after an interruption, processes, checks, command line."""

import os
import runpy
import signal
import sys

import pytest
from ade20k_tree import files_of, write_ade20k
from PIL import Image
from support import REPOSITORY

from mask2former.data import DatasetError
from mask2former.data.preparation import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic, run
from mask2former.data.preparation.__main__ import PREPARATIONS, main

ROOT = REPOSITORY
JOBS = (Ade20kSemantic, Ade20kInstance, Ade20kPanoptic)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Job -> files after an undisturbed run."""
    results = {}
    for job in JOBS:
        root = tmp_path_factory.mktemp(job.__name__)
        folder = write_ade20k(root)
        assert run(job(root, "train"), quiet=True) == 9
        results[job] = files_of(folder)
    return results


@pytest.fixture
def root(tmp_path):
    write_ade20k(tmp_path)
    return tmp_path


def interrupted(job, root, number, action, workers=1):
    """Run a job that does `action` before its file of this number, from 0."""

    class Interrupted(job):
        def convert(self, name):
            if name == self.names()[number]:
                action()
            return super().convert(name)

    return run(Interrupted(root, "train"), quiet=True, workers=workers)


def ctrl_c():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("number", [0, 5, 8])
def test_an_interrupted_run_continues(job, number, root, whole):
    with pytest.raises(KeyboardInterrupt):
        interrupted(job, root, number, ctrl_c)
    folder = root / "ADEChallengeData2016"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert not list(folder.glob("*.json"))
    assert run(job(root, "train"), quiet=True) == 9 - number
    assert files_of(folder) == whole[job]
    assert before.items() <= {p: p.stat().st_mtime_ns for p in folder.rglob("*.png")}.items()
    assert run(job(root, "train"), quiet=True) == 0


@pytest.mark.parametrize("job", JOBS)
def test_killed_process(job, root, whole):
    with pytest.raises(RuntimeError, match=r"training: a process was killed.*fewer --workers"):
        interrupted(job, root, 6, kill, workers=2)
    assert not list(root.glob("ADEChallengeData2016/*.json"))
    assert run(job(root, "train"), quiet=True, workers=2) <= 9
    assert files_of(root / "ADEChallengeData2016") == whole[job]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("job", JOBS)
def test_everything_killed(job, root, whole):
    child = os.fork()
    if child == 0:
        interrupted(job, root, 4, kill)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    folder = root / "ADEChallengeData2016"
    # As if killed while writing
    for partial in folder.glob("*.partial"):
        with partial.open("a") as file:
            file.write('["ADE_train_0')
    if job is not Ade20kInstance:
        output = job(root, "train").output_folder
        (output / ".ADE_train_00000001.png.x8_a").write_bytes(b"\x89PNG")
    assert run(job(root, "train"), quiet=True) == 5
    assert files_of(folder) == whole[job]


@pytest.mark.parametrize("job", JOBS)
def test_processes_give_the_same_files(job, root, whole):
    assert run(job(root, "train"), quiet=True, workers=3) == 9
    assert files_of(root / "ADEChallengeData2016") == whole[job]


def test_overwrite(root, whole):
    job, folder = Ade20kPanoptic(root, "train"), root / "ADEChallengeData2016"
    run(job, quiet=True)
    for path in (job.output_json, *job.output_folder.iterdir()):
        path.write_bytes(b"old")
    with pytest.raises(DatasetError, match=r"errors in what is there now.*--overwrite"):
        run(job, quiet=True)
    assert run(job, quiet=True, overwrite=True) == 9
    assert files_of(folder) == whole[Ade20kPanoptic]


def test_journal_of_another_version_is_not_used(root, whole):
    with pytest.raises(KeyboardInterrupt):
        interrupted(Ade20kPanoptic, root, 5, ctrl_c)
    (partial,) = root.glob("*/*.partial")
    lines = partial.read_text().split("\n")
    assert len(lines) == 7
    partial.write_text("\n".join(['{"version": 0}', *lines[1:]]))
    assert run(Ade20kPanoptic(root, "train"), quiet=True) == 9
    assert files_of(root / "ADEChallengeData2016") == whole[Ade20kPanoptic]


def test_lost_file_is_made_again(root, whole):
    job = Ade20kPanoptic(root, "train")
    with pytest.raises(KeyboardInterrupt):
        interrupted(Ade20kPanoptic, root, 5, ctrl_c)
    job.png(job.names()[2]).unlink()
    assert run(job, quiet=True) == 5
    assert files_of(root / "ADEChallengeData2016") == whole[Ade20kPanoptic]

    run(job, quiet=True)
    job.png(job.names()[3]).unlink()
    run(job, quiet=True)
    assert files_of(root / "ADEChallengeData2016") == whole[Ade20kPanoptic]


def test_check_finds_what_is_wrong(root):
    semantic, panoptic = Ade20kSemantic(root, "train"), Ade20kPanoptic(root, "train")
    for job in (semantic, panoptic):
        run(job, quiet=True)
        path = job.png(job.names()[2])
        with Image.open(path) as image:
            picture = image.copy()
        picture.putpixel((0, 0), 160 if job is semantic else (1, 1, 1))
        picture.save(path)
        with pytest.raises(DatasetError, match=rf"(?s)in what is there now.*{path.name}"):
            run(job, quiet=True)
        assert run(job, quiet=True, check=False) == 0

    names = panoptic.names()
    run(panoptic, quiet=True, overwrite=True)
    # Areas that differ do not stop training, but are no result of a preparation.
    content = panoptic.output_json.read_text()
    panoptic.output_json.write_text(content.replace('"area": ', '"area": 1', 1))
    with pytest.raises(DatasetError, match="1 errors in what is there now"):
        run(panoptic, quiet=True)
    assert len(names) == 9


def test_command_line(root, whole, capsys):
    arguments = ["--datasets", str(root), "--splits", "train", "--workers", "2"]
    assert main(["ade20k-semantic", *arguments]) == 0
    assert files_of(root / "ADEChallengeData2016") == whole[Ade20kSemantic]
    output = capsys.readouterr()
    assert "ADE20K semantic, training: 9 files made, 0 there already." in output.out
    assert "9 images" in output.out

    assert main(["ade20k-instance", "coco-semantic", "--datasets", str(root / "none")]) == 1
    assert "none/ADEChallengeData2016/images/training: there is no" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ade20k-semantic", "--workers", "0"])
    with pytest.raises(SystemExit):
        main(["imagenet"])


def test_help_lists_everything_and_the_tool_is_the_same(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare_dataset.py", "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "tools/prepare_dataset.py"), run_name="__main__")
    text = capsys.readouterr().out
    assert all(f"\n{name} " in text for name in PREPARATIONS)


def test_number_of_workers(root):
    with pytest.raises(ValueError, match="workers=0: must be at least 1"):
        run(Ade20kSemantic(root, "train"), workers=0)
