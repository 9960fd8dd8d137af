"""Regions of image files, against the whole image as it is read everywhere else."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.image import read_image
from mask2former.inference.tiling.grid import Region
from mask2former.inference.tiling.raster import RasterWindows
from mask2former.inference.tiling.windows import WholeImage, open_windows, pixels_of_file
from mask2former_runtime.image import ImageReadError
from mask2former_runtime.stored import StoredKind, as_picture, read_stored

rasterio = pytest.importorskip("rasterio")

REGION = Region(17, 40, 90, 131)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def images(pixels: np.ndarray) -> dict[str, Image.Image]:
    color = Image.fromarray(pixels)
    grey = pixels[..., 0].astype(np.uint16)
    return {
        "colour": color,
        "grey": color.convert("L"),
        "palette": color.quantize(64),
        "black and white": color.convert("1"),
        "transparent": Image.fromarray(np.dstack([pixels, pixels[..., :1]])),
        "grey and transparent": Image.fromarray(pixels).convert("LA"),
        "CMYK": color.convert("CMYK"),
        "16 bits": Image.fromarray(grey * 257),
        "12 bits": Image.fromarray(grey * 16),
    }


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("kind", images(np.zeros((1, 1, 3), np.uint8)))
def test_windows_are_parts_of_the_image(kind, compression, pixels, tmp_path):
    path = tmp_path / "image.tif"
    images(pixels)[kind].save(path, compression=compression)
    whole = read_image(path)
    with open_windows(path) as windows:
        assert isinstance(windows, RasterWindows)
        assert windows.size == (120, 160) and pixels_of_file(path) == 120 * 160
        np.testing.assert_array_equal(windows.read(REGION), whole[17:90, 40:131])
        everything = windows.overview(1)
    np.testing.assert_array_equal(everything, whole[:, :, ::-1])


def test_other_formats_and_turned_files_are_decoded_as_a_whole(pixels, tmp_path):
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "turned.tif", exif=exif)
    for name in ("a.png", "turned.tif"):
        with open_windows(tmp_path / name) as windows:
            assert isinstance(windows, WholeImage) and windows.georeference is None
            whole = read_image(tmp_path / name)
            assert windows.size == whole.shape[:2]
            np.testing.assert_array_equal(windows.read(Region(5, 6, 70, 80)), whole[5:70, 6:80])


def write(path: Path, values: np.ndarray, **options) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=values.shape[1], width=values.shape[2],
        count=len(values), dtype=values.dtype, **options,
    ) as file:  # fmt: skip
        file.write(values)
    return path


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_bands_of_satellites(pixels, tmp_path):
    """Eleven bits, and a band of infrared."""
    bands = np.concatenate([pixels.transpose(2, 0, 1), pixels[None, ..., 1]]).astype(np.uint16) * 8
    path = write(tmp_path / "image.tif", bands, photometric="RGB", alpha="NO")
    with open_windows(path) as windows:
        np.testing.assert_array_equal(windows.read(REGION)[..., ::-1], pixels[17:90, 40:131] >> 1)


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("kind", ["uint16", "float32"])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_stored_values_are_parts_of_the_image(kind, suffix, pixels, tmp_path):
    values = np.concatenate([pixels, pixels[..., :2]], axis=2).astype(kind) * 200
    path = tmp_path / f"image{suffix}"
    if suffix == ".npy":
        np.save(path, values)
    else:
        write(path, values.transpose(2, 0, 1))
    whole = read_stored(path, kind, 5)
    np.testing.assert_array_equal(whole, values)
    assert pixels_of_file(path) == 120 * 160
    with open_windows(path, StoredKind(kind, 5)) as windows:
        assert windows.size == (120, 160)
        part = windows.read(REGION)
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, whole[17:90, 40:131])
        np.testing.assert_array_equal(windows.overview(1), as_picture(whole))
        assert windows.overview(7).shape == (18, 23, 3)
    problem = f"5 channels of {kind}, and the model takes 4"
    with (
        pytest.raises(ImageReadError, match=problem),
        open_windows(path, StoredKind(kind, 4)),
    ):
        pass


@pytest.mark.parametrize("kind", images(np.zeros((1, 1, 3), np.uint8)))
def test_stored_values_of_pictures_are_those_of_smaller_files(kind, pixels, tmp_path, monkeypatch):
    """Some are refused by both."""
    path = tmp_path / "image.tif"
    images(pixels)[kind].save(path)
    try:
        whole = read_stored(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert pixels_of_file(path) == 120 * 160
    except ImageReadError:
        with pytest.raises(ImageReadError), open_windows(path, StoredKind("uint8", 1)):
            pass
        return
    stored = StoredKind("uint16" if "bits" in kind else "uint8", whole.shape[2])
    with open_windows(path, stored) as windows:
        np.testing.assert_array_equal(windows.read(REGION), whole[17:90, 40:131])


def test_stored_values_that_are_no_numbers_are_named(tmp_path):
    values = np.zeros((40, 40, 2), np.float32)
    values[30, 30, 1] = np.nan
    np.save(tmp_path / "image.npy", values)
    with open_windows(tmp_path / "image.npy", StoredKind("float32", 2)) as windows:
        windows.read(Region(0, 0, 30, 30))
        with pytest.raises(ImageReadError, match=r"image\.npy: it holds NaN"):
            windows.read(Region(0, 0, 31, 31))


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("float", "pixels of type float32 have no defined range"),
        ("pages", "a file of several pages"),
        ("missing", "no such file"),
        ("text", "damaged or not supported|not an image"),
        ("empty", "damaged or not supported|not an image"),
    ],
)
def test_unusable_files_are_named_in_one_line(kind, message, pixels, tmp_path):
    path = tmp_path / "image.tif"
    if kind == "float":
        write(path, pixels.transpose(2, 0, 1).astype(np.float32))
    elif kind == "pages":
        image = Image.fromarray(pixels)
        image.save(path, save_all=True, append_images=[image])
    elif kind != "missing":
        path.write_text("no image" * 100 if kind == "text" else "")
    with (
        pytest.raises(ImageReadError, match=f"image.tif: .*({message})") as error,
        open_windows(path),
    ):
        pass
    assert "\n" not in str(error.value)


def test_an_unknown_coordinate_system_is_told(pixels, tmp_path, caplog):
    """The place stays: pixels still have their size."""
    place = rasterio.transform.from_origin(10, 20, 2, 2)
    path = write(
        tmp_path / "image.tif", pixels.transpose(2, 0, 1), crs="EPSG:32632", transform=place
    )
    content = path.read_bytes()
    key = struct.pack("<HHHH", 3072, 0, 1, 32632)  # ProjectedCSTypeGeoKey
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, struct.pack("<HHHH", 3072, 0, 1, 1999)))
    with open_windows(path) as windows:
        georeference = windows.georeference
    assert georeference["transform"] == place
    assert georeference["crs"] is None
    (record,) = caplog.records
    assert "image.tif: its coordinate system is not known" in record.getMessage()
