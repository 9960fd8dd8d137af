"""`mask2former serve` as a command: what it prints, and the mistakes that it reports."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from demo_runs import CONFIG, IDS, NAMES, make_run
from support import REPOSITORY

from mask2former.cli.main import main


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    metadata = {
        "thing_classes": NAMES,
        "thing_dataset_id_to_contiguous_id": {id_: i for i, id_ in enumerate(IDS)},
    }
    return make_run(tmp_path_factory.mktemp("my run"), CONFIG, metadata).parent


def test_it_serves_until_it_is_told_to_stop(run_folder):
    command = [sys.executable, "-m", "mask2former", "serve", str(run_folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        line = process.stdout.readline()
        found = re.fullmatch(
            r"Serving (.+) \(instance\) on (http://127\.0\.0\.1:\d+/)  Ctrl-C ends it\.\n", line
        )
        assert found, line
        assert found[1] == run_folder.name
        with urllib.request.urlopen(f"{found[2]}healthz", timeout=30) as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "Stopped.\n"
        assert process.wait(30) == 0


def test_a_port_that_is_taken(run_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            main(["serve", str(run_folder), "--port", str(port)])
    assert end.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        f"mask2former serve: error: cannot listen on 127.0.0.1:{port}: Address already in use"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines use the server"),
        (["--token", "secret"], "--token: at least 16"),
        (["--port", "70000"], "--port 70000: a port is from 0 to 65535"),
        (["--queue", "0"], "--queue 0: it must be more than 0"),
        (["--batch", "-1"], "--batch -1: it must be more than 0"),
        (["--max-pixels", "nan"], "--max-pixels nan: it must be more than 0"),
        (["--max-upload", "0"], "--max-upload 0: it must be more than 0"),
        (["--timeout", "-3"], "--timeout -3: it must be more than 0"),
        (["--label-studio-url", "/etc"], "--label-studio-url /etc: not an http(s) URL"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(flags, words, capsys, monkeypatch):
    monkeypatch.delenv("MASK2FORMER_TOKEN", raising=False)
    with pytest.raises(SystemExit) as end:
        main(["serve", "no-such-model", *flags])
    assert end.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"mask2former serve: error: {words}")


def test_without_the_extra(capsys, monkeypatch):
    for name in [n for n in sys.modules if n.startswith(("fastapi", "mask2former.serve"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(SystemExit) as end:
        main(["serve", "no-such-model"])
    assert end.value.code == 2
    assert 'serving needs fastapi: pip install "mask2former[serve]"' in capsys.readouterr().err
