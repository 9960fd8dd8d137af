"""Label Studio's coding of brush masks.

It is the run-length coding of the package rle-pack (https://thi.ng/rle-pack) over the bytes of an
RGBA image whose four channels are all 255 inside the mask and 0 outside. A stream of bits, most
significant first, holds:

- the number of values in 32 bits, the bits per value less 1 in 5 bits, and four widths less 1 in
  4 bits each;
- then chunks: a bit that says whether one value is repeated (1) or several follow (0); two bits
  that choose a width; in that width, the number of values less 1; and the value, or the values.
"""

from __future__ import annotations

import numpy as np

_WORD = 8
_WIDTHS = (3, 4, 8, 16)
_CHANNELS = 4


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encode a mask.

    Args:
        mask: (H, W) bool.

    Returns:
        The bytes of the code.
    """
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges, [flat.size]])
    bits = [f"{flat.size * _CHANNELS:032b}", f"{_WORD - 1:05b}"]
    bits += [f"{width - 1:04b}" for width in _WIDTHS]
    if flat.size:
        lengths = (np.diff(starts) * _CHANNELS).tolist()
        inside = bool(flat[0])
        for length in lengths:
            bits += _run(length, 255 if inside else 0)
            inside = not inside
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: int) -> list[str]:
    """Return the bits of a value that is repeated, in as many chunks as that takes."""
    most = 1 << _WIDTHS[-1]
    bits = []
    while length:
        part = min(length, most)
        number = next(i for i, width in enumerate(_WIDTHS) if part <= 1 << width)
        bits.append(f"1{number:02b}{part - 1:0{_WIDTHS[number]}b}{value:0{_WORD}b}")
        length -= part
    return bits
