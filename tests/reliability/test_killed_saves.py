"""Real processes, killed while they save: the run continues from a whole checkpoint."""

import builtins
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mask2former.checkpoint import Checkpointer, WeightsError
from mask2former.checkpoint.resume import newest_checkpoints, remove_unfinished

LENGTH = 3  # iterations of the run that is killed


class Loop:
    """What the trainer saves of itself."""

    iteration = -1

    def state_dict(self):
        return {"iteration": self.iteration}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def checkpointer(folder, size=4):
    loop = Loop()
    return Checkpointer(nn.Linear(size, size), str(folder), trainer=loop), loop


def run(folder, report, size=4):
    """Resume, and save after each iteration; the weights tell the iteration."""
    saving, loop = checkpointer(folder, size)
    saving.resume_or_load("", resume=True)
    for iteration in range(loop.iteration + 1, LENGTH):
        loop.iteration = iteration
        nn.init.constant_(saving.model.weight, iteration)
        saving.save(f"model_{iteration:07d}")
        report(iteration)
    saving.save("model_final")


def fork(work):
    """Run `work` in a child process, which inherits the imported modules; return its id."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(0)


def state_after(folder, size=4):
    """Return the iteration that a resumed run continues after, and its weight."""
    saving, loop = checkpointer(folder, size)
    saving.resume_or_load("", resume=True)
    return loop.iteration, saving.model.weight[0, 0].item()


def kill_at_call(number, folder, report):
    """Run, and send SIGKILL to this process at one of its calls that change files."""
    calls = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "chmod", "close", "open", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    torch.save = counted(torch.save)
    builtins.open = counted(open)
    run(folder, report)


def test_killed_at_every_write(tmp_path):
    for number in range(1, 200):
        folder = tmp_path / str(number)
        folder.mkdir()
        progress = folder / "progress"

        def report(iteration, progress=progress):
            with progress.open("a") as file:
                file.write(f"{iteration}\n")

        child = fork(lambda n=number, f=folder, r=report: kill_at_call(n, f, r))
        _, status = os.waitpid(child, 0)
        saved = len(progress.read_text().splitlines()) if progress.exists() else 0
        iteration, weight = state_after(folder)
        assert saved - 1 <= iteration < LENGTH, number
        assert weight == iteration or iteration == -1, number
        if not os.WIFSIGNALED(status):
            break
        remove_unfinished(folder)
        assert not {p.name for p in folder.glob(".*")}, number
        os.waitpid(fork(lambda f=folder, r=report: run(f, r)), 0)
        assert (folder / "model_final.pth").exists(), number
        assert state_after(folder) == (LENGTH - 1, LENGTH - 1), number
    assert number > 30  # kills


@pytest.mark.parametrize("kills", [25, pytest.param(300, marks=pytest.mark.slow, id="slow-300")])
def test_killed_at_random_moments(tmp_path, kills):
    draw = random.Random(0)
    size = 300  # 360 kB: writing takes a while
    for number in range(kills):
        folder = tmp_path / str(number)
        folder.mkdir()
        reader, writer = os.pipe()
        child = fork(lambda f=folder, w=writer: run(f, lambda i: os.write(w, b"."), size))
        time.sleep(draw.random() * 0.06)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            saved = len(file.read())
        iteration, weight = state_after(folder, size)
        assert saved - 1 <= iteration
        assert iteration == -1 or weight == iteration
        remove_unfinished(folder)
        assert not list(folder.glob(".*"))


def saved_run(folder):
    run(folder, lambda iteration: None)
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000002.pth")


TAGS = [None, "", "gone.pth", "model_0000009.pth", "\0", "..", ".", "a" * 5000]


@pytest.mark.parametrize("tag", TAGS)
def test_a_missing_or_wrong_tag_does_not_start_the_run_anew(tmp_path, tag):
    saved_run(tmp_path)
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_text(tag)
    assert state_after(tmp_path)[0] == 2


def test_a_tag_written_by_hand_goes_back(tmp_path):
    saved_run(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000000.pth")
    assert state_after(tmp_path)[0] == 0


def test_damaged_checkpoints_are_passed_over(tmp_path, caplog):
    saved_run(tmp_path)
    (tmp_path / "model_0000002.pth").write_bytes(b"")
    whole = (tmp_path / "model_0000001.pth").read_bytes()
    (tmp_path / "model_0000001.pth").write_bytes(whole[: len(whole) // 2])
    assert state_after(tmp_path)[0] == 0
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"no checkpoint in .* can be resumed"):
        state_after(tmp_path)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_changed_bit_is_found_and_the_checkpoint_before_it_is_used(tmp_path, caplog, part):
    saved_run(tmp_path)
    newest = tmp_path / "model_0000002.pth"
    content = bytearray(newest.read_bytes())
    content[int(part * len(content))] ^= 1
    newest.write_bytes(content)
    assert state_after(tmp_path)[0] == 1
    assert f"{newest} has changed since it was written" in caplog.text
    assert "the checkpoint before it is tried" in caplog.text


def test_weights_alone_are_not_resumed(tmp_path):
    Checkpointer(nn.Linear(4, 4), str(tmp_path)).save("model_final")
    with pytest.raises(WeightsError, match=r"MODEL\.WEIGHTS"):
        state_after(tmp_path)


def test_final_weights_come_last_unless_an_earlier_version_continued_from_them(tmp_path):
    names = ["model_0000001", "model_final", "model_0000003"]  # resumed with a larger MAX_ITER
    for moment, name in enumerate(names):
        path = tmp_path / f"{name}.pth"
        path.touch()
        os.utime(path, (moment, moment))
    found = [Path(path).stem for path in newest_checkpoints(tmp_path)]
    assert found == ["model_0000003", "model_0000001", "model_final"]
    tag = tmp_path / "last_checkpoint"
    tag.write_text("model_final.pth")
    os.utime(tag, (1, 1))
    assert [Path(path).stem for path in newest_checkpoints(tmp_path)] == names[::-1]


def test_only_temporary_files_of_this_package_are_removed(tmp_path):
    kept = [".hidden", ".model_0000001.pth", "model_0000001.pth", ".bashrc.abcdefgh"]
    removed = [".model_0000001.pth.0123456789abcdef", ".last_checkpoint.fedcba9876543210"]
    for name in kept + removed:
        (tmp_path / name).touch()
    assert {path.name for path in remove_unfinished(tmp_path)} == set(removed)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
