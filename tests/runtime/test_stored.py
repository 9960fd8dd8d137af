import numpy as np
import pytest
from PIL import Image

from mask2former_runtime.image import ImageReadError
from mask2former_runtime.stored import STORED_TYPES, as_picture, as_stored, read_stored

SIZE = 7, 5


def values(kind, channels, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(kind).kind == "f":
        return generator.normal(0, 1000, (*SIZE, channels)).astype(kind)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, (*SIZE, channels), kind, endpoint=True)


def write_tiff(path, array):
    rasterio = pytest.importorskip("rasterio")
    height, width, count = array.shape
    options = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": count,
        "dtype": array.dtype,
    }
    with rasterio.open(path, "w", **options) as file:
        file.write(np.moveaxis(array, 2, 0))


@pytest.mark.parametrize("kind", STORED_TYPES)
@pytest.mark.parametrize("channels", [1, 5])
def test_arrays_of_each_type_are_read_as_numpy_reads_them(tmp_path, kind, channels):
    array = values(kind, channels)
    np.save(tmp_path / "image.npy", array)
    read = read_stored(tmp_path / "image.npy", kind, channels)
    assert read.dtype == np.float32 and read.flags["C_CONTIGUOUS"] and read.flags["WRITEABLE"]
    np.testing.assert_array_equal(read, array.astype(np.float32))
    np.testing.assert_array_equal(as_stored(array, kind, channels), read)


def test_an_array_of_two_axes_has_one_channel(tmp_path):
    array = values("int16", 1)[..., 0]
    np.save(tmp_path / "image.npy", array)
    np.testing.assert_array_equal(read_stored(tmp_path / "image.npy")[..., 0], array)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 8])
def test_tiff_files_keep_all_channels_and_values(tmp_path, kind, channels):
    array = values(kind, channels)
    write_tiff(tmp_path / "image.tif", array)
    np.testing.assert_array_equal(read_stored(tmp_path / "image.tif", kind, channels), array)


def test_a_grey_png_file_keeps_its_16_bits(tmp_path):
    array = values("uint16", 1)
    Image.fromarray(array[..., 0]).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_stored(tmp_path / "image.png", "uint16", 1), array)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_png_file_of_colours_keeps_its_16_bits(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    array = values("uint16", 3)
    path = tmp_path / "image.png"
    options = {"driver": "PNG", "height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint16"}
    with rasterio.open(path, "w", **options) as file:
        file.write(np.moveaxis(array, 2, 0))
    np.testing.assert_array_equal(read_stored(path, "uint16", 3), array)


def bad_arrays():
    whole = values("float32", 5)
    holed = whole.copy()
    holed[0, 0, 0] = np.nan
    return {
        "holds NaN": holed,
        "holds NaN or infinite values, or values too large": np.full((2, 2), 1e300),
        "Python objects": np.array([[{}, None]], dtype=object),
        "an array of complex": whole.astype("complex64"),
        "the shape": np.zeros((2, 3, 4, 5), "float32"),
        "3 channels of float32, and the model takes 5": whole[..., :3],
        "5 channels of float64, and the model takes 5 channels of float32": whole.astype("f8"),
    }


@pytest.mark.parametrize("problem", bad_arrays())
def test_bad_arrays_are_named(tmp_path, problem):
    array = bad_arrays()[problem]
    path = tmp_path / "image.npy"
    np.save(path, array, allow_pickle=True)
    kind = None if array.dtype == np.float64 and "large" in problem else "float32"
    with pytest.raises(ImageReadError) as error:
        read_stored(path, kind, 5 if kind else None)
    assert problem in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pickle_is_not_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    np.save(tmp_path / "image.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(ImageReadError, match="Python objects"):
        read_stored(tmp_path / "image.npy")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.01, 0])
def test_files_that_are_cut_off_are_named(tmp_path, suffix, share):
    path = tmp_path / f"image{suffix}"
    array = np.random.default_rng(0).normal(size=(40, 40, 5)).astype("float32")
    np.save(path, array) if suffix == ".npy" else write_tiff(path, array)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageReadError, match=path.name):
        read_stored(path, "float32", 5)


def test_other_images_are_drawn_from_their_first_three_channels():
    array = values("float32", 5)
    shown = as_picture(array)
    assert shown.dtype == np.uint8 and shown.shape == (*SIZE, 3)
    for channel in range(3):
        ramp = np.interp(
            array[..., channel], np.sort(array[..., channel].ravel())[[0, -1]], (0, 255)
        )
        np.testing.assert_allclose(shown[..., channel], ramp, atol=0.51)
    grey = as_picture(array[..., :2])
    assert (grey == grey[..., :1]).all() and (grey[..., 0] == shown[..., 0]).all()
    assert not as_picture(np.full((2, 2, 1), 7, np.float32)).any()
