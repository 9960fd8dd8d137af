"""The command that compiles the operator for other runtimes: what is missing or wrong."""

import sys

import pytest

from mask2former.cli.build_operator import main


def error_of(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 2
    output = capsys.readouterr()
    assert not output.out and output.err.count("\n") == 1
    return output.err


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "operators"
    yield ["--output", str(folder)]
    assert not folder.exists() or not any(folder.iterdir())


def test_no_compiler(output, capsys, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "install g++ 12 or newer" in error_of(capsys, "onnxruntime", *output)


def test_a_compiler_that_is_not_there(output, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "CXX is 'no-such-compiler'" in error_of(capsys, "onnxruntime", *output)


def test_a_compiler_that_fails(output, capsys, monkeypatch, tmp_path):
    compiler = tmp_path / "old-g++"
    compiler.write_text("#!/bin/sh\necho first line >&2\necho x.h:1: error: old >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "old-g++ failed: x.h:1: error: old" in error_of(capsys, "onnxruntime", *output)


def test_no_openvino(output, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    assert 'pip install "mask2former[openvino]"' in error_of(capsys, "openvino", *output)


def test_a_folder_that_is_a_file(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit) as stopped:
        main(["onnxruntime", "--output", str(file)])
    assert stopped.value.code == 1 and str(file) in capsys.readouterr().err
