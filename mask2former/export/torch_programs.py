"""Programs as files of PyTorch: ``torch.export``'s own, or compiled ahead of time."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from mask2former_runtime.metadata import Metadata

from ..inference.exported import METADATA_FILE
from .program import quiet


def write_pt2(program: torch.export.ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Write a program as it is."""
    torch.export.save(program, path, extra_files={METADATA_FILE: metadata.to_text()})


def write_aoti(program: torch.export.ExportedProgram, metadata: Metadata, path: Path) -> None:
    """Compile a program for this machine's processor and write it; this takes minutes.

    Raises:
        ValueError: there is no compiler, or it fails.
    """
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the ahead-of-time compiler failed, which needs a C++ compiler: {first[:300]}"
        ) from error
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/extra/{METADATA_FILE}", metadata.to_text())
