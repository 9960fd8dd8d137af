"""Processes that are started together report what happened and leave no thread behind."""

import atexit
import os
import time
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from mask2former.engine import launch
from mask2former.engine.processes import Mistake

two_processes = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Detectron2's launcher would want two GPUs"
)


def _gloo_threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def _train_and_leave_a_cycle(folder):
    """Use every process group of a training, with a model that only the collector can free."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model.itself = [model]
    model(torch.ones(1, 2)).sum().backward()
    assert comm.all_gather(comm.get_rank()) == [0, 1]
    assert comm.get_local_rank() == comm.get_rank()
    at_work = _gloo_threads()
    path = Path(folder) / str(comm.get_rank())
    atexit.register(lambda: path.write_text(f"{at_work > 0} {_gloo_threads()}"))


@two_processes
def test_no_thread_of_a_process_group_outlives_it(tmp_path):
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("there is no other list of threads")
    launch(_train_and_leave_a_cycle, 2, dist_url="auto", args=(str(tmp_path),))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["True 0", "True 0"]


def _fail_in_the_main_process():
    if comm.is_main_process():
        raise ValueError("the true reason")
    comm.synchronize()


@two_processes
def test_the_error_of_the_process_that_failed_is_reported():
    with pytest.raises(Exception, match="the true reason"):
        launch(_fail_in_the_main_process, 2, dist_url="auto")


def _end_with_a_status():
    if comm.is_main_process():
        raise SystemExit(2)  # after a message of its own
    time.sleep(60)  # until it is ended


@two_processes
def test_the_status_of_the_process_that_ended_first_is_kept():
    with pytest.raises(SystemExit) as end:
        launch(_end_with_a_status, 2, dist_url="auto")
    assert end.value.code == 2


def test_a_single_process_is_this_one():
    pids = []
    launch(lambda name: pids.append((name, os.getpid())), 1, args=("a",))
    assert pids == [("a", os.getpid())]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_gpus": 0}, "--num-gpus is 0, but must be at least 1"),
        ({"num_gpus": 1, "num_machines": -1}, "--num-machines is -1, but must be at least 1"),
        (
            {"num_gpus": 1, "num_machines": 2, "machine_rank": 2},
            "--machine-rank is 2, but must be from 0 to 1",
        ),
    ],
)
def test_numbers_that_start_no_process_are_mistakes(numbers, message):
    with pytest.raises(Mistake, match=message) as mistake:
        launch(_fail_in_the_main_process, **numbers)
    assert mistake.value.status == 2
