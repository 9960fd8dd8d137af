"""Importing the package and asking for help print nothing that users could not act on."""

import subprocess
import sys

import pytest
from support import REPOSITORY


def stderr_of(*arguments):
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    return result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import mask2former"),
        ("-W", "error::FutureWarning", "-c", "import mask2former"),
        ("train_net.py", "--help"),
        ("demo/demo.py", "--help"),
    ],
)
def test_there_is_no_warning(arguments):
    assert stderr_of(*arguments) == ""


def test_later_warnings_are_shown():
    code = "import mask2former, torch; torch.jit.script(torch.nn.Identity())"
    assert "`torch.jit.script` is deprecated" in stderr_of("-W", "always", "-c", code)


def test_importing_registers_the_models_and_the_data_sets():
    code = (
        "import mask2former\n"
        "from detectron2.data import DatasetCatalog\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "assert 'MaskFormer' in META_ARCH_REGISTRY\n"
        "assert 'ade20k_sem_seg_val' in DatasetCatalog.list(), DatasetCatalog.list()\n"
    )
    assert stderr_of("-c", code) == ""


def test_the_package_costs_little_beyond_detectron2():
    """Less than 0.3 s, of seconds: measured in one process, where Detectron2 is there already."""
    code = (
        "import warnings; warnings.simplefilter('ignore'); import time, detectron2.modeling\n"
        "start = time.process_time(); import mask2former; print(time.process_time() - start)"
    )
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY))
        for _ in range(3)
    ]
    assert min(seconds) < 0.3, seconds
