"""Where the results of tiles are kept until they are joined: in memory or in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from mask2former_runtime.files import read_json, write_atomically, write_json

Arrays = Mapping[str, np.ndarray]


class OtherSettingsError(ValueError):
    """A folder has results that follow from something else; the message says what to do."""


class Store(Protocol):
    """Arrays by name."""

    def save(self, name: str, arrays: Arrays, *, compress: bool = True) -> None:
        """Keep arrays under a name, in place of earlier ones."""

    def load(self, name: str) -> Arrays | None:
        """Return the arrays of a name, or None if there are none."""


class MemoryStore:
    """Keeps the arrays as they are."""

    def __init__(self) -> None:
        self._arrays: dict[str, Arrays] = {}

    def save(self, name: str, arrays: Arrays, *, compress: bool = True) -> None:
        """Keep arrays under a name, in place of earlier ones."""
        self._arrays[name] = arrays

    def load(self, name: str) -> Arrays | None:
        """Return the arrays of a name, or None if there are none."""
        return self._arrays.get(name)


class FolderStore:
    """Keeps a file per name, which is there completely or not at all.

    Args:
        folder: is made unless it exists.
        settings: what the results follow from.

    Raises:
        OtherSettingsError: the folder has results of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]):
        self.folder = folder
        path = folder / "settings.json"
        if path.exists():
            earlier = read_json(path)
            known = earlier if isinstance(earlier, dict) else {}
            other = [key for key in settings if known.get(key) != settings[key]]
            if other:
                raise OtherSettingsError(
                    f"{folder} has tiles of a run with other settings ({', '.join(other)}): delete "
                    "it, or choose another --output"
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, dict(settings))

    def save(self, name: str, arrays: Arrays, *, compress: bool = True) -> None:
        """Keep arrays under a name, in place of earlier ones."""
        write = np.savez_compressed if compress else np.savez
        write_atomically(self._path(name), lambda file: write(file, **arrays))  # type: ignore[arg-type]

    def load(self, name: str) -> Arrays | None:
        """Return the arrays of a name, or None if there are none."""
        try:
            with np.load(self._path(name)) as file:
                return dict(file)
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"
