"""A user's own data in a format that is rewritten for training: COCO JSON, or label maps.

The rewritten files are in a folder of the process (see `work_folder`); nothing is written beside
the user's files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from mask2former_runtime.files import write_json

from ...structures import Classes
from ..checks.report import Report
from ..own_data import InstanceData, SemanticData
from .maps import MapSource, void_label, write_maps
from .reading import Reading
from .source import InstanceSource, Source, work_folder


@dataclass(frozen=True)
class ConvertedInstances(InstanceData):
    """Objects in another format, rewritten as COCO JSON."""

    source: InstanceSource
    split: str

    @property
    def places(self) -> list[str]:
        """The user's files and folders."""
        return self.source.places(self.split)

    def check(self, *, evaluated: bool, pixels: bool | None, classes: Classes | None) -> Report:
        """Read and check all files; the report names file, and line or object."""
        reading = self.source.read(self.split)
        report = reading.check(evaluated=evaluated, pixels=pixels)
        if not report.num_errors:
            self._write(reading)
        return report

    def register(self, name: str, classes: Classes) -> None:
        """Register the rewritten file; another process may not have it yet."""
        if not Path(self.json_file).is_file():
            self._write(self.source.read(self.split))
        super().register(name, classes)

    def _write(self, reading: Reading) -> None:
        Path(self.json_file).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.json_file, reading.content)


@dataclass(frozen=True)
class ConvertedMaps(SemanticData):
    """Label maps in another form, rewritten as numbers of classes, with links to the images."""

    source: MapSource | None = None
    split: str = ""

    @property
    def places(self) -> list[str]:
        """The user's files and folders."""
        assert self.source is not None
        return self.source.places(self.split)

    def check(self, *, evaluated: bool, pixels: bool | None, classes: Classes | None) -> Report:
        """Rewrite and check all files; the report names them."""
        assert self.source is not None
        found = Report(", ".join(self.places), unit="pixels")
        write_maps(self.source, self.split, Path(self.label_root).parent, found)
        report = super().check(evaluated=evaluated, pixels=pixels, classes=classes)
        report.source = found.source
        report.problems = [
            replace(problem, detail=problem.detail.replace(f"{self.label_root}/", ""))
            for problem in report.problems
        ]
        report.prepend(found)
        return report

    def register(self, name: str, classes: Classes) -> None:
        """Register the rewritten files; another process may not have them yet."""
        assert self.source is not None
        folder = Path(self.label_root).parent
        if not (folder / "classes.json").is_file():
            write_maps(self.source, self.split, folder, Report(""))
        super().register(name, classes)


def converted(source: Source, split: str) -> ConvertedInstances | ConvertedMaps:
    """Return a split of a folder in another format as data to check, register and train on."""
    identity = repr((source.name, source.task, source.root, split))
    place = work_folder() / f"{split}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    if isinstance(source, MapSource):
        return ConvertedMaps(
            str(place / "images"),
            str(place / "labels"),
            str(place / "classes.json"),
            void_label(len(source.class_names())),
            source=source,
            split=split,
        )
    assert isinstance(source, InstanceSource)
    return ConvertedInstances(f"{place}.json", source.image_root(split), source=source, split=split)
