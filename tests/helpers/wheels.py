"""Building a wheel of the checkout, and environments that have it but not the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from support import REPOSITORY

SOURCES = (
    "configs",
    "mask2former",
    "runtime",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "pyproject.toml",
    "setup.py",
)


def build_wheels(source: Path, folder: Path) -> list[Path]:
    """Build pure-Python wheels of both distributions in `folder`.

    A build leaves files in `source`, so it is a copy.
    """
    for name in SOURCES:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(
                path, source / name, ignore=shutil.ignore_patterns("*.so", "*.egg-info", "build")
            )
        else:
            shutil.copy(path, source / name)
    command = ("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder)
    subprocess.run(
        [sys.executable, "-m", "pip", *command, source, source / "runtime"],
        check=True,
        env={**os.environ, "FORCE_PURE_PYTHON": "1"},
    )
    return sorted(folder.glob("*.whl"))


def install_wheels(wheels: Sequence[Path], folder: Path) -> Path:
    """Make an environment with the wheels and this environment's other packages.

    Returns:
        The environment's folder of programs.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    site = next(folder.glob("lib/python*/site-packages"))
    # A path in a .pth file is not searched for further .pth files, such as that of the checkout.
    paths = sysconfig.get_paths()
    (site / "others.pth").write_text("\n".join(dict.fromkeys((paths["purelib"], paths["platlib"]))))
    command = ("install", "-q", "--no-deps", "--no-index", "--ignore-installed", *wheels)
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *command], check=True)
    return folder / "bin"
