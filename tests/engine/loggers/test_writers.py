"""Metrics in files and in trackers, with the packages themselves, offline."""

import csv
import json
import os
import random
import struct
import time
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage, JSONWriter
from support import QUICKSTART
from trained_runs import trained

from mask2former import load_config
from mask2former.engine import Trainer
from mask2former.engine.loggers.writers import (
    CSVWriter,
    JSONLinesWriter,
    RunWriter,
    TrackerWriter,
    build_writers,
)
from mask2former.engine.run_folder import claim_run_folder


def table(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def as_rows(path):
    """Return the rows of a metrics.json in the order of a CSV file."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return sorted(rows, key=lambda row: row["iteration"])


def same(found, wanted):
    """Compare rows of a CSV file with rows of JSON; empty cells are missing values."""
    found = [{name: float(value) for name, value in row.items() if value} for row in found]
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-7, nan_ok=True)


def steps(path, values, start=0, period=3):
    """Write the metrics of iterations to a CSV and two JSON files, as a run does."""
    writers = [CSVWriter(path), JSONWriter(path.with_suffix(".json"), window_size=20)]
    writers.append(JSONLinesWriter(path.with_suffix(".jsonl")))
    for writer in (writers[0], writers[2]):
        writer.start(start)
    with EventStorage(start) as storage:
        for storage.iter in range(start, start + len(values)):
            storage.put_scalars(**values[storage.iter - start], smoothing_hint=False)
            if (storage.iter + 1) % period == 0:
                for writer in writers:
                    writer.write()
        for writer in writers:
            writer.write()
            writer.close()


def test_each_row_is_that_of_the_json_file_whenever_a_metric_begins(tmp_path):
    draw = random.Random(0)
    names = ["loss", "lr", "segm/AP", 'AP-"a, b"']
    for number in range(20):
        values = [
            {name: draw.uniform(-9, 9) for name in names if draw.random() < 0.5 or name == "loss"}
            for _ in range(20)
        ]
        path = tmp_path / f"{number}.csv"
        steps(path, values)
        same(table(path), as_rows(path.with_suffix(".json")))
        assert as_rows(path.with_suffix(".jsonl")) == as_rows(path.with_suffix(".json"))
        header = path.read_text().splitlines()[0]
        assert header.startswith("iteration,")


def test_a_resumed_run_replaces_the_rows_from_its_first_iteration_on(tmp_path):
    values = [{"loss": float(i), **({"segm/AP": i / 2} if i % 4 == 3 else {})} for i in range(12)]
    steps(tmp_path / "whole.csv", values)
    for kept in range(0, 12, 3):
        for cut in (0, 3):  # killed while it wrote
            path = tmp_path / f"parts_{kept}_{cut}.csv"
            steps(path, values[: kept + 3])
            with path.open("a") as file:
                file.write("11,7.0,8.0\n"[:-cut] if cut else "")
            with path.with_suffix(".jsonl").open("a") as file:
                file.write('{"iteration": 11, "loss": 7.0}\n'[:-cut] if cut else "")
            steps(path, [*values[kept:]], start=kept)
            found = table(path)
            assert {row["iteration"]: row for row in found} == {
                row["iteration"]: {k: v for k, v in row.items() if k in found[0]}
                for row in table(tmp_path / "whole.csv")
            }
            lines = path.with_suffix(".jsonl").read_text()
            assert lines == (tmp_path / "whole.jsonl").read_text()


def test_a_run_writes_the_same_metrics_to_all_files(tiny_cfg):
    tiny_cfg.TEST.EVAL_PERIOD = 2
    trained(tiny_cfg)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    rows = as_rows(folder / "metrics.json")
    same(table(folder / "metrics.csv"), rows)
    assert {"gradient/norm", "segm/AP", "total_loss", "lr"} <= set().union(*rows)
    assert list(folder.glob("events.out.tfevents.*"))


def test_a_finished_run_that_is_resumed_has_each_row_once(tiny_cfg):
    tiny_cfg.TEST.EVAL_PERIOD = 4
    trained(tiny_cfg)
    before = as_rows(Path(tiny_cfg.OUTPUT_DIR, "metrics.json"))
    assert [row["iteration"] for row in before] == [3, 4]
    trained(tiny_cfg, resume=True)
    again = as_rows(Path(tiny_cfg.OUTPUT_DIR, "metrics.json"))
    assert str(again) == str(before)  # there are NaNs, of sizes that no object has


def test_a_folder_that_takes_the_place_of_the_run_s_stays_as_it_is(tiny_cfg, tmp_path):
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "run")
    folder = Path(tiny_cfg.OUTPUT_DIR)
    claim_run_folder(folder, resume=False)
    tiny_cfg.LOGGERS = ["tensorboard", "json", "csv"]
    writers = [w for w in build_writers(tiny_cfg, max_iter=4) if isinstance(w, RunWriter)]
    for writer in writers:
        writer.start(0)
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        for writer in writers:
            writer.write()
            writer.close()
    assert not list(folder.iterdir())


def test_loggers_are_chosen(tiny_cfg):
    tiny_cfg.LOGGERS = ["csv"]
    trained(tiny_cfg)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    assert (folder / "metrics.csv").exists()
    assert not (folder / "metrics.json").exists()
    assert not list(folder.glob("events.out.tfevents.*"))
    with pytest.raises(ValueError, match=r"LOGGERS is .*'tensorbord'.*, but must be .* 'json'"):
        load_config(str(QUICKSTART), ["LOGGERS", ["tensorbord"]])


def records_of_wandb(path):
    """Yield the records of a file of wandb, which is a log of LevelDB after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768  # of a block
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if position + 7 + length > len(data):  # it is being written
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def run_of_wandb(path):
    """Return the id, the config and the history that a file of wandb holds."""
    until = time.monotonic() + 60
    records = []
    while not any(record.WhichOneof("record_type") == "exit" for record in records):
        assert time.monotonic() < until
        time.sleep(0.1)  # a process of wandb's writes the file, also after the run has finished
        records = list(records_of_wandb(path))
    identity, config, history = "", {}, {}
    for record in records:
        if record.WhichOneof("record_type") == "run":
            identity = record.run.run_id
            config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif record.WhichOneof("record_type") == "history":
            row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            row = {name: float(json.loads(value)) for name, value in row.items()}
            history[row["_step"]] = row
    return identity, config, history


def run_twice(cfg):
    """Train in two parts, and return the metrics of both."""
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = 2
    cfg.SOLVER.MAX_ITER = 2
    cfg.LOGGERS = [*cfg.LOGGERS, "json"]
    trained(cfg)
    cfg.SOLVER.MAX_ITER = 4
    trained(cfg, resume=True)
    rows = {}
    for row in as_rows(Path(cfg.OUTPUT_DIR, "metrics.json")):
        rows[row.pop("iteration")] = row
    assert any("segm/AP" in row for row in rows.values())
    return rows


def test_wandb_gets_config_and_metrics_and_a_resumed_run_is_the_same_one(tiny_cfg, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny_cfg.LOGGERS = ["wandb"]
    wanted = run_twice(tiny_cfg)
    files = sorted(Path(tiny_cfg.OUTPUT_DIR).glob("wandb/offline-run-*/*.wandb"))
    (identity, config, first), (again, _, second) = map(run_of_wandb, files)
    assert identity == again
    assert json.loads(Path(tiny_cfg.OUTPUT_DIR, "trackers.json").read_text()) == {"wandb": identity}
    assert config["SOLVER"]["MAX_ITER"] == 2
    history = first | second
    assert set(history) == set(wanted)
    for iteration, row in wanted.items():
        found = {name: history[iteration][name] for name in row}
        assert found == pytest.approx(row, nan_ok=True)


def test_mlflow_gets_config_and_metrics_and_a_resumed_run_is_the_same_one(tiny_cfg, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    store = f"file:{tiny_cfg.OUTPUT_DIR}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tiny_cfg.LOGGERS = ["mlflow"]
    wanted = run_twice(tiny_cfg)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mask2former")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == Path(tiny_cfg.OUTPUT_DIR).name
    assert run.info.status == "FINISHED"
    assert run.data.params["SOLVER.MAX_ITER"] == "2"
    for name in ("total_loss", "segm/AP", "gradient/norm"):
        found = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
        assert found == pytest.approx({i: row[name] for i, row in wanted.items() if name in row})


def test_trackio_gets_config_and_metrics_and_a_resumed_run_is_the_same_one(tiny_cfg, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", Path(tiny_cfg.OUTPUT_DIR, "trackio"))
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", Path(tiny_cfg.OUTPUT_DIR, "trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    tiny_cfg.LOGGERS = ["trackio"]
    wanted = run_twice(tiny_cfg)
    (name,) = SQLiteStorage.get_runs("mask2former")
    assert name.startswith(f"{Path(tiny_cfg.OUTPUT_DIR).name}-")
    logs = SQLiteStorage.get_logs("mask2former", name)
    found = {row["step"]: row["total_loss"] for row in logs if "total_loss" in row}
    assert found == pytest.approx(
        {i: row["total_loss"] for i, row in wanted.items() if "total_loss" in row}
    )


def test_a_missing_package_is_named_with_the_line_that_installs_it(tiny_cfg, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tiny_cfg.LOGGERS = ["json", "wandb"]
    with pytest.raises(ImportError, match=r'needs wandb: pip install "mask2former\[wandb\]"$'):
        Trainer(tiny_cfg)


def test_a_tracker_that_cannot_start_ends_the_run_in_one_line(tiny_cfg, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    tiny_cfg.LOGGERS = ["mlflow"]
    with pytest.raises(OSError, match=r"LOGGERS mlflow cannot be used: .*gopher") as error:
        trained(tiny_cfg)
    assert "\n" not in str(error.value)


def test_a_tracker_that_fails_later_does_not_end_the_run(tiny_cfg, monkeypatch, caplog):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tiny_cfg.OUTPUT_DIR}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    tiny_cfg.LOGGERS = ["mlflow", "csv"]
    write = TrackerWriter.write_rows

    def lose(self, rows):
        """Delete the run, as somebody may do in a server's page."""
        if self._tracker is not None:
            self._tracker._client.delete_run(self._tracker.run_id)
        write(self, rows)

    monkeypatch.setattr(TrackerWriter, "write_rows", lose)
    trained(tiny_cfg)
    assert "mlflow gets no more metrics of this run: " in caplog.text
    assert Path(tiny_cfg.OUTPUT_DIR, "model_final.pth").exists()


def test_rows_of_what_is_trained_again_are_replaced(tmp_path):
    """A run fails at 12, resumes from 10, and writes at 19 for the first time."""
    for writer_type, name in ((CSVWriter, "a.csv"), (JSONLinesWriter, "a.json")):
        for start, written in ((0, (4, 9, 12)), (10, (19,))):
            writer = writer_type(tmp_path / name)
            writer.start(start)
            for iteration in written:
                writer.write_rows({iteration: {"loss": float(start)}})
            writer.write_rows({written[-1] + 1: {"loss": 1.0, "other": 2.0}})  # another column
    rows = as_rows(tmp_path / "a.json")
    assert [row["iteration"] for row in rows] == [4, 9, 19, 20]
    same(table(tmp_path / "a.csv"), rows)


@pytest.mark.parametrize("writer_type", [CSVWriter, JSONLinesWriter])
def test_an_evaluation_that_is_made_up_for_keeps_the_losses(writer_type, tmp_path):
    path = tmp_path / "metrics"
    writer = writer_type(path)
    writer.write_rows({4: {"loss": 4.0}, 9: {"loss": 9.0}})
    writer = writer_type(path)
    writer.start(10)
    writer.write_rows({9: {"segm/AP": 7.0}, 14: {"loss": 14.0}})
    rows = dict(writer.read(path.read_text().splitlines()))
    assert {
        i: {name: float(row[name]) for name in row if name != "iteration"}
        for i, row in rows.items()
    } == {4: {"loss": 4.0}, 9: {"loss": 9.0, "segm/AP": 7.0}, 14: {"loss": 14.0}}


@pytest.mark.parametrize("writer_type", [CSVWriter, JSONLinesWriter])
def test_a_failed_write_leaves_nothing_that_later_ones_append_to(
    writer_type, tmp_path, monkeypatch
):
    path = tmp_path / "metrics"
    writer_type(path).write_rows({4: {"loss": 1.0}, 9: {"loss": 2.0}})
    writer = writer_type(path)
    writer.start(5)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="full"):
            writer.write_rows({9: {"loss": 3.0}})
    writer.write_rows({14: {"loss": 4.0}})
    assert [i for i, _ in writer.read(path.read_text().splitlines())] == [4, 14]


def full_disk(*paths):
    raise OSError("full")


def test_what_others_wrote_into_a_table_stays(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text('iteration,AP of "\u2028",note\n1,2,ok\n²,3,\n2,nan,\n3,4,5,6\n', "utf-8-sig")
    writer = CSVWriter(path)
    writer.start(10)
    writer.write_rows({14: {"loss": 0.1}})
    assert path.read_text() == (
        'iteration,"AP of ""\u2028""",note,loss\n1,2,ok,\n2,nan,,\n14,,,0.1\n'
    )


def test_damaged_lines_do_not_end_a_run(tmp_path):
    path = tmp_path / "metrics.json"
    damage = ["[" * 200_000, "{", "3", '{"iteration": "x"}', "\0" * 200_000]
    path.write_text("\n".join([*damage, '{"iteration": 1, "loss": 2.0}', ""]))
    writer = JSONLinesWriter(path)
    writer.start(10)
    writer.write_rows({14: {"loss": 0.1}})
    assert [row["iteration"] for row in as_rows(path)] == [1, 14]
    table_path = tmp_path / "metrics.csv"
    table_path.write_text("iteration,loss\n1,2\n" + "\0" * 200_000 + "\n")
    writer = CSVWriter(table_path)
    writer.start(10)
    writer.write_rows({14: {"loss": 0.1}})
    assert [row["iteration"] for row in table(table_path)] == ["1", "14"]
