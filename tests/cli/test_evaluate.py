"""`mask2former evaluate`: where its results go."""

import pytest

from mask2former.cli.main import main


@pytest.mark.parametrize("kind", ["the folder", "a file in it", "no run"])
def test_results_are_not_mixed_with_others(kind, datasets, tmp_path, monkeypatch, capsys):
    """By default they go into the model's folder, named after the data."""
    data = datasets / "synthetic_shapes"
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_final.pth").touch()
    here = tmp_path if kind == "no run" else run
    (here / "evaluation/synthetic_shapes/inference").mkdir(parents=True)
    model = {"the folder": run, "a file in it": run / "model_final.pth", "no run": "zoo/name"}
    for arguments in ([], ["--output", str(run)]):  # the run itself has checkpoints
        with pytest.raises(SystemExit) as end:
            main(["evaluate", str(model[kind]), "--data", str(data), *arguments])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert "already holds results: choose another folder with --output" in message
