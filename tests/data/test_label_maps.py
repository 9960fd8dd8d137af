import numpy as np
import pytest
from label_files import id_colors, raw_png, save
from PIL import Image

from mask2former.data import DatasetError
from mask2former.data.label_maps import read_label_map, read_panoptic_png


def packed(values, bits):
    """Rows of numbers as PNG packs them, first in the high bits."""
    rows = []
    for row in values:
        text = "".join(format(value, f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    return rows


@pytest.mark.parametrize("palette", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_of_few_bits_is_read_as_stored(tmp_path, bits, palette):
    values = np.random.default_rng(bits).integers(0, 1 << bits, (5, 11))
    # Colours that differ from the indices: 255, 254, ...
    colors = bytes(range(255, -1, -1)) * 3 if palette else None
    content = raw_png(
        packed(values, bits), bits=bits, width=11, palette=colors and colors[: 3 << bits]
    )
    (tmp_path / "labels.png").write_bytes(content)
    labels = read_label_map(tmp_path / "labels.png")
    assert labels.dtype == np.uint8 and (labels == values).all()


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", "u2"), ("tif", "u2"), ("tif", ">u2"), ("tif", "i4"), ("tif", "u1"), ("bmp", "u1")],
)
def test_other_files_of_one_channel(tmp_path, suffix, dtype):
    largest = 255 if dtype == "u1" else 65535
    values = np.random.default_rng(0).integers(0, largest + 1, (7, 9))
    values[0, :2] = 0, largest
    path = save(tmp_path / f"labels.{suffix}", values.astype(dtype))
    labels = read_label_map(path)
    assert labels.dtype.isnative and (labels == values).all()


def test_panoptic_ids_of_every_size(tmp_path):
    ids = np.random.default_rng(0).integers(0, 1 << 24, (40, 30))
    ids[0] = 2 ** np.arange(30).clip(0, 23)
    ids[1, :3] = 0, 255, (1 << 24) - 1
    path = save(tmp_path / "segments.png", id_colors(ids))
    assert (read_panoptic_png(path) == ids).all()
    # Programs that make files smaller store the same picture in other ways.
    opaque = np.dstack([id_colors(ids), np.full((40, 30, 1), 255, dtype=np.uint8)])
    assert (read_panoptic_png(save(tmp_path / "alpha.png", opaque)) == ids).all()
    few = ids[:8, :8]
    image = Image.fromarray(id_colors(few)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "palette.png")
    assert (read_panoptic_png(tmp_path / "palette.png") == few).all()


def test_files_that_are_not_label_maps_are_named(tmp_path):
    color = save(tmp_path / "color.png", np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match=r"color\.png: its pixels are RGB.*one channel"):
        read_label_map(color)
    floats = save(tmp_path / "floats.tif", np.zeros((4, 4), dtype=np.float32))
    with pytest.raises(DatasetError, match=r"floats\.tif: its pixels are F"):
        read_label_map(floats)
    deep = save(tmp_path / "deep.png", np.zeros((4, 4), dtype=np.uint16))
    with pytest.raises(DatasetError, match=r"deep\.png: its pixels are I;16.*RGB of 8 bit"):
        read_panoptic_png(deep)
    save(tmp_path / "ok.png", np.eye(90, dtype=np.uint8))
    whole = (tmp_path / "ok.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    for read in (read_label_map, read_panoptic_png):
        with pytest.raises(DatasetError, match=r"cut\.png: damaged"):
            read(tmp_path / "cut.png")
        with pytest.raises(DatasetError, match=r"text\.png: not an image"):
            read(tmp_path / "text.png")
        with pytest.raises(DatasetError, match=r"gone\.png: no such file"):
            read(tmp_path / "gone.png")
