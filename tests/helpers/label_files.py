"""Small pictures and label maps on disk, for the tests of what reads them."""

import struct
import zlib

import numpy as np
from PIL import Image


def raw_png(rows, *, bits, width, palette=None):
    """A PNG of one channel, from the packed bytes of each row."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    kind = 0 if palette is None else 3
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if palette is not None:
        content += chunk(b"PLTE", palette)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return content + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def id_colors(ids):
    """The (H, W, 3) picture of segment ids, digit by digit to the base 256."""
    ids = np.asarray(ids, dtype=np.int64)
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def patches(rng, height, width, values, cell=9):
    """A map of rectangles with random `values`, which touch at odd places."""
    rows, columns = -(-height // cell), -(-width // cell)
    coarse = rng.choice(values, size=(rows, columns))
    return coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]


def save(path, array, **kwargs):
    """Write an array as an image; return the path as text."""
    Image.fromarray(array).save(path, **kwargs)
    return str(path)
