#!/usr/bin/env python
"""Install Detectron2 from PyPI into the Python that runs this script.

Detectron2 itself is not on PyPI, but sal-detectron2 0.7.2 is: its Python files equal Detectron2's
main branch of 2024-04-17. Its wheel also contains an extension compiled for CPython 3.10 and a
stray top-level package "tools", which are not needed here. This script downloads the pinned wheel
(pip checks its SHA-256), leaves those two out, and installs the rest as a pure-Python package. It
works on Python 3.10 and later, and "pip uninstall sal-detectron2" removes it.

If "import detectron2" already works, the script does nothing. If your machine reaches Detectron2's
own repository, you can install from there instead:

    pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2'
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME, VERSION = "sal_detectron2", "0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
# What Detectron2 imports besides torch and torchvision. Its own list pins numpy<2 and formatters.
REQUIREMENTS = [
    "cloudpickle",
    "fvcore>=0.1.5.post20221221",
    "hydra-core>=1.3",
    "iopath>=0.1.9",
    "matplotlib",
    "numpy",
    "omegaconf>=2.3",
    "packaging",
    "pillow",
    "pycocotools>=2.0.6",
    "setuptools<81",  # detectron2.model_zoo imports pkg_resources
    "tabulate",
    "tensorboard",
    "termcolor",
    "tqdm",
    "yacs>=0.1.8",
]
METADATA = f"""Metadata-Version: 2.1
Name: {NAME}
Version: {VERSION}
Summary: Detectron2 (main of 2024-04-17), Python files only
License: Apache-2.0
""" + "".join(f"Requires-Dist: {requirement}\n" for requirement in REQUIREMENTS)
WHEEL = "Wheel-Version: 1.0\nGenerator: mask2former\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def pip(*args: str | Path) -> None:
    """Run pip for this Python."""
    subprocess.run([sys.executable, "-m", "pip", *map(str, args)], check=True)


def download(folder: Path) -> Path:
    """Download the pinned wheel into ``folder``; pip fails if its hash differs."""
    pin = folder / "pin.txt"
    pin.write_text(f"{NAME}=={VERSION} --hash=sha256:{SHA256}\n")
    pip(
        *("download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"),
        *("--python-version", "3.10", "--dest", folder, "-r", pin),
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def repack(source: Path, folder: Path) -> Path:
    """Write a pure-Python wheel of ``source``'s ``detectron2`` package into ``folder``."""
    info = f"{NAME}-{VERSION}.dist-info"
    with zipfile.ZipFile(source) as old:
        files = {
            name: old.read(name)
            for name in old.namelist()
            if not name.endswith("/")
            and (name == f"{info}/LICENSE" or name.startswith("detectron2/"))
            and not name.endswith((".so", ".pyd"))
        }
    files[f"{info}/METADATA"] = METADATA.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    ]
    record.append(f"{info}/RECORD,,")
    files[f"{info}/RECORD"] = "\n".join(record).encode()
    target = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in files.items():
            new.writestr(name, data)
    return target


def main() -> None:
    """Install Detectron2 unless it is there."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is already installed; left as it is.")
        return
    with tempfile.TemporaryDirectory() as tmp:
        fetched, packed = Path(tmp, "fetched"), Path(tmp, "packed")
        fetched.mkdir()
        packed.mkdir()
        pip("install", "--quiet", repack(download(fetched), packed))
    print("Installed Detectron2 (main of 2024-04-17).")


if __name__ == "__main__":
    main()
