import os
import stat
import subprocess
import sys

import pytest

from mask2former_runtime import files
from mask2former_runtime.files import (
    check_replaceable,
    moved_at_the_end,
    read_json,
    remove_abandoned,
    write_atomically,
    write_json,
)


def test_json_is_utf_8_whatever_the_options(tmp_path):
    content = {"name": "Köln", "values": [1, None, 2.5]}
    for options in ({}, {"ensure_ascii": False}, {"indent": 1}):
        write_json(tmp_path / "a.json", content, **options)
        assert read_json(tmp_path / "a.json") == content
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("a.json", "plain")}
    assert len(modes) == 1  # others may read it, as they may any new file


def test_threads_do_not_change_what_new_files_may(tmp_path, monkeypatch):
    """The mask of permissions belongs to the process: to ask for it is to set it."""

    def umask(_):
        raise AssertionError("another thread may make a file now")

    monkeypatch.setattr(os, "umask", umask)
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"


def test_names_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("x" * 250 + ".png")
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_the_disk_has_no_room_for_is_not_kept(tmp_path):
    """Pillow does not notice that a part of what it writes is missing."""
    program = """
import os, resource, sys
from PIL import Image
from mask2former_runtime.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
picture = Image.frombytes("RGB", (100, 100), os.urandom(30_000))
try:
    write_atomically(sys.argv[1], lambda file: picture.save(file, format="PNG"))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.png")], capture_output=True, check=True
    )
    assert done.stdout == b"File too large\n", done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_an_unfinished_folder_leaves_nothing(is_there, tmp_path):
    folder = tmp_path / "out"
    if is_there:
        folder.mkdir()
    with pytest.raises(RuntimeError, match="half-way"), moved_at_the_end(folder) as new:
        (new / "a").write_text("new")
        raise RuntimeError("half-way")
    assert [*tmp_path.rglob("*")] == ([folder] if is_there else [])
    with moved_at_the_end(folder) as new:
        (new / "a").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_an_unfinished_folder_that_is_removed_before_it_is_locked_is_made_anew(
    tmp_path, monkeypatch
):
    lock = files._lock

    def late(folder):
        monkeypatch.setattr(files, "_lock", lock)
        assert remove_abandoned(tmp_path) == [] and not folder.exists()  # as another process does
        return lock(folder)

    monkeypatch.setattr(files, "_lock", late)
    with moved_at_the_end(tmp_path) as new:
        (new / "a").write_text("new")
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not have such paths")
def test_pipes_and_devices_are_not_replaced(tmp_path):
    """What root could do. The paths of devices are only checked: a failure would remove them."""
    for path in ("/dev/null", "/dev/stdout", "/dev/../dev/no device"):
        with pytest.raises(OSError, match="is a pipe, a socket or a device: name a file"):
            check_replaceable(path)
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="a is a pipe"):
        write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    with pytest.raises(OSError, match="a is a pipe"), moved_at_the_end(tmp_path) as new:
        (new / "a").write_text("new")
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


def test_an_unfinished_folder_is_safe_from_another_user_of_its_parent(tmp_path):
    with moved_at_the_end(tmp_path) as first, moved_at_the_end(tmp_path) as second:
        (first / "a").write_text("first")
        (second / "b").write_text("second")
    (tmp_path / ".unfinished.mine").mkdir()  # a name that `moved_at_the_end` never gives
    assert remove_abandoned(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".unfinished.mine"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a.json cannot be read: No such file or directory"),
        (b"{", "a.json is not JSON: "),
        (b'"\xff"', "a.json is not JSON: "),
    ],
)
def test_unreadable_json_is_named(tmp_path, content, message):
    class OwnError(ValueError):
        pass

    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    for kind in (ValueError, OwnError):
        with pytest.raises(kind) as caught:
            read_json(path, error=kind)
        assert type(caught.value) is kind
        assert message in str(caught.value)
