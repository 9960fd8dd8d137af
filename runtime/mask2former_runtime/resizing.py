"""Bilinear resizing of maps in two steps, a band of rows at a time.

Resizing is linear in each axis, so both steps together are a matrix per axis. Almost all of its
numbers are 0: a product takes the columns that are not.

Shapes:
    n: maps, h, w: their size, H, W: size of the output.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Size = tuple[int, int]
Range = tuple[int, int]
"""The first of some rows or columns, and the one after the last."""

BAND_PIXELS = 1 << 22
"""Pixels that all maps of a band have together: 16 MiB of float32."""
_BLOCK_SOURCES = 32  # input columns of a product, about


def resized(values: np.ndarray, outputs: int) -> np.ndarray:
    """Resize the first axis bilinearly, with corners that are not aligned.

    Positions have the rounding of PyTorch's ``interpolate``: that of one float32 operation which
    multiplies and adds.

    Args:
        values: (inputs, ...).
        outputs: the new length of the axis.
    """
    inputs = len(values)
    if inputs == outputs:
        return values
    scale = np.float64(np.float32(inputs) / np.float32(outputs))
    positions = np.maximum(scale * (np.arange(outputs) + 0.5) - 0.5, 0).astype(np.float32)
    before = np.minimum(positions.astype(np.int64), inputs - 1)
    after = np.minimum(before + 1, inputs - 1)
    share = np.clip(positions - before.astype(np.float32), 0, 1).astype(np.float32)
    share = share.reshape(-1, *(1,) * (values.ndim - 1))
    return (1 - share) * values[before] + share * values[after]


class _Axis:
    """One axis: a matrix, and the range of inputs that each output depends on."""

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix
        used = matrix != 0
        self._first = used.argmax(1)
        self._last = matrix.shape[1] - used[:, ::-1].argmax(1)

    def sources(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of inputs of a range of outputs."""
        return int(self._first[first]), int(self._last[last - 1])

    def outputs(self, first: int, last: int) -> tuple[int, int]:
        """Return the range of outputs that depend on a range of inputs."""
        begin = np.searchsorted(self._last, first, "right")
        return int(begin), max(int(begin), int(np.searchsorted(self._first, last, "left")))


class Resizing:
    """Resizes maps to a padded size, cuts the padding off, and resizes the rest to the output.

    Args:
        size: (h, w).
        padded_size: what the maps are of.
        image_size: the part of that at the top left that is kept.
        output_size: (H, W).
    """

    def __init__(self, size: Size, padded_size: Size, image_size: Size, output_size: Size):
        matrices = []
        for inputs, padded, image, output in zip(
            size, padded_size, image_size, output_size, strict=True
        ):
            identity = np.eye(inputs, dtype=np.float32)
            matrices.append(resized(resized(identity, padded)[:image], output))
        self.output_size = output_size
        self._rows, self._columns = map(_Axis, matrices)

    @classmethod
    def plain(cls, size: Size, output_size: Size) -> Resizing:
        """Return what resizes in one step."""
        return cls(size, size, size, output_size)

    def source_rows(self, first: int, last: int) -> Range:
        """Return the range of input rows that a range of output rows depends on."""
        return self._rows.sources(first, last)

    def outputs_of(self, rows: Range, columns: Range) -> tuple[Range, Range]:
        """Return the ranges of output rows and columns that depend on ranges of the input."""
        return self._rows.outputs(*rows), self._columns.outputs(*columns)

    def rows(self, maps: np.ndarray, rows: Range, columns: Range | None = None) -> np.ndarray:
        """Compute a range of rows of the output.

        Args:
            maps: (n, :, w) float32: the `source_rows` of the range.
            rows: the first row, and the row after the last one.
            columns: likewise; None for all.

        Returns:
            (n, rows, columns) float32, new.
        """
        begin, end = self._rows.sources(*rows)
        left, right = (0, self.output_size[1]) if columns is None else columns
        flat = np.ascontiguousarray(maps).reshape(-1, maps.shape[2])
        wide = np.empty((len(flat), right - left), np.float32)
        # Most weights of a wide block are 0, and a narrow one is a product of its own.
        block = max(32, _BLOCK_SOURCES * self.output_size[1] // maps.shape[2])
        for first in range(left, right, block):
            last = min(first + block, right)
            near, far = self._columns.sources(first, last)
            weights = self._columns.matrix[first:last, near:far].T
            np.matmul(flat[:, near:far], weights, out=wide[:, first - left : last - left])
        wide = wide.reshape(*maps.shape[:2], right - left)
        return np.matmul(self._rows.matrix[rows[0] : rows[1], begin:end], wide)

    def bands(
        self, maps: np.ndarray, most: int, rows: Range, columns: Range | None = None
    ) -> Iterator[tuple[Range, np.ndarray]]:
        """Yield ranges of rows of the output and what `rows` computes of them.

        Args:
            maps: (n, h, w) float32.
            most: rows in a band.
            rows: those to compute.
            columns: those to compute; None for all.
        """
        for first in range(rows[0], rows[1], most):
            band = first, min(first + most, rows[1])
            near, far = self.source_rows(*band)
            yield band, self.rows(maps[:, near:far], band, columns)


def rows_within(limit: int, maps: int, width: int) -> int:
    """Return how many rows of so many maps fit into a number of pixels; at least 1."""
    return max(1, limit // max(1, maps * width))
