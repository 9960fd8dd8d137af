"""Files that users have: rotated, grey, transparent, 16-bit, CMYK, damaged."""

import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import detection_utils
from matplotlib import cbook
from PIL import Image

from mask2former.data.checks.image_files import read_header
from mask2former.data.image import ImageReadError, read_image

# How the stored pixels follow from the upright ones, for each EXIF orientation.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
# Each needs a package or a version of Pillow that may be missing.
OPTIONAL = ("avif", "heic")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB").resize((96, 128))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_channel_order(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    rgb, bgr = read_image(tmp_path / "a.png", "RGB"), read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(rgb, pixels)
    np.testing.assert_array_equal(bgr, pixels[:, :, ::-1])
    for array in (rgb, bgr):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.flags.writeable
    with pytest.raises(ValueError, match="'L' is not supported"):
        read_image(tmp_path / "a.png", "L")


def save(image, path, **options):
    """Save an image without registering pillow-heif, which is up to the reader."""
    suffix = path.suffix
    if suffix == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        exif = options.pop("exif", Image.Exif()).tobytes()
        pillow_heif.from_pillow(image).save(path, exif=exif, **options)
    elif suffix == ".avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow does not read AVIF")
    else:
        image.save(path, **options)


def exif_data(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", *OPTIONAL])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path, photo, suffix, orientation):
    upright = np.asarray(photo)
    path = tmp_path / f"a.{suffix}"
    quality = {} if suffix in ("png", "tif") else {"quality": 95}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    save(stored, path, exif=exif_data(orientation), **quality)
    read = read_image(path, "RGB")
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 4
    assert read_header(str(path)).upright == photo.size[::-1]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", STORED)
def test_ordinary_photographs_have_the_pixels_of_detectron2(
    tmp_path, photo, suffix, mode, orientation
):
    path = tmp_path / f"a.{suffix}"
    photo.convert(mode).save(path, exif=exif_data(orientation))
    for order in ("RGB", "BGR"):
        expected = detection_utils.read_image(str(path), order)
        np.testing.assert_array_equal(read_image(path, order), expected)


def test_photographs_of_coco_have_the_pixels_of_detectron2(shared):
    coco = shared / "data/coco_permissive/val2017"
    paths = sorted(coco.glob("*.jpg"))
    assert paths
    for path in paths[:20]:
        np.testing.assert_array_equal(read_image(path), detection_utils.read_image(path, "BGR"))


def test_heic_without_pillow_heif_says_what_to_install(tmp_path, photo):
    save(photo, tmp_path / "a.jpg.heic")
    (tmp_path / "a.jpg.heic").rename(tmp_path / "a.jpg")  # phones name them so, too
    script = """if True:
        import sys
        sys.modules["pillow_heif"] = None
        from mask2former.data.image import read_image
        read_image(sys.argv[1])
    """
    command = [sys.executable, "-c", script, tmp_path / "a.jpg"]
    result = subprocess.run(command, capture_output=True, text=True)
    message = "a.jpg: HEIC files need pillow-heif: pip install pillow-heif"
    assert result.stderr.strip().endswith(message)


def test_damaged_exif_data_do_not_hide_the_image(tmp_path, photo):
    photo.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"no TIFF header here")
    assert read_image(tmp_path / "a.jpg").shape == (128, 96, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_black_and_white_and_palette(tmp_path, photo, mode):
    image = photo.convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png", "RGB"), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_blended_with_white(tmp_path, mode):
    color = (40, 40, 40) if mode == "RGBA" else (40,)
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((255, 0, 128)):
        image.putpixel((x, 0), (*color, alpha))
    image.save(tmp_path / "a.png")
    expected = [40, 255, round(255 + (40 - 255) * 128 / 255)]
    read = read_image(tmp_path / "a.png")[0, :, 0]
    np.testing.assert_allclose(read, expected, atol=1)


def test_transparent_palette_entry_and_colour_key(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    key = Image.new("RGB", (2, 1), (10, 20, 30))
    key.putpixel((1, 0), (200, 100, 50))
    key.save(tmp_path / "k.png", transparency=(10, 20, 30))
    for name in ("p.png", "k.png"):
        np.testing.assert_array_equal(
            read_image(tmp_path / name, "RGB")[0], [[255, 255, 255], [200, 100, 50]]
        )


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_uses_the_whole_range(tmp_path, suffix):
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5040].reshape(60, 84)
    values[0, 0] = 65535
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(read[:, :, channel], expected)


def test_cmyk(tmp_path):
    """Both a TIFF and a JPEG, which stores the channels inverted."""
    color = Image.new("RGB", (32, 32), (200, 120, 40)).convert("CMYK")
    for name in ("a.tif", "a.jpg"):
        color.save(tmp_path / name)
        read = read_image(tmp_path / name, "RGB")
        np.testing.assert_allclose(read.reshape(-1, 3), [[200, 120, 40]] * 1024, atol=3)


def test_first_frame_of_an_animation(tmp_path, photo):
    other = Image.new("RGB", photo.size)
    photo.save(tmp_path / "a.webp", save_all=True, append_images=[other], lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp", "RGB"), np.asarray(photo))


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        with pytest.raises(ImageReadError, match=rf"{name}.*no defined range"):
            read_image(tmp_path / name)


def test_unreadable_files_are_named(tmp_path, photo):
    (tmp_path / "text.jpg").write_text("this is no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    photo.save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    photo.save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    reasons = {
        "text.jpg": "not an image of a known format",
        "empty.png": "not an image of a known format",
        "folder.png": "is a directory",
        "missing.png": "no such file",
        "cut.jpg": "damaged",
        "cut.png": "damaged",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageReadError) as error:
            read_image(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: {reason}")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp", "webp", "dds", *OPTIONAL])
@pytest.mark.filterwarnings("ignore")
def test_random_damage_raises_nothing_else(tmp_path, photo, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    save(photo.resize((48, 64)), path)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(60):
        damaged = data[: rng.integers(1, len(data) + 1)].copy()
        at = rng.integers(0, min(200, len(damaged)), rng.integers(0, 4))
        damaged[at] = rng.integers(0, 256, len(at))
        path.write_bytes(damaged.tobytes())
        try:
            assert read_image(path).shape[2] == 3
            outcomes["read"] += 1
        except ImageReadError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 0
