"""Files that users have: rotated, grey, transparent, 16-bit, CMYK, damaged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from matplotlib import cbook
from PIL import Image

from mask2former.data.checks.image_files import image_header, read_header
from mask2former.data.image import check_header, decode_image, frame_times, read_frames, read_image
from mask2former.data.label_maps import read_label_map, read_panoptic_png
from mask2former_runtime.image import ImageReadError, TooManyPixelsError, stored_bits

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


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_fewer_bits_in_16_are_scaled_by_their_range(tmp_path, bits, suffix):
    """A ramp of 10 bits, say, comes out as the same ramp of 8 bits, up to rounding."""
    values = np.linspace(0, 2**bits - 1, 600).round().astype(np.uint16).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read = read_image(tmp_path / f"a.{suffix}")[:, :, 0]
    np.testing.assert_allclose(read, values / (2**bits - 1) * 255, atol=0.501)
    assert read.min() == 0 and read.max() == 255


def test_the_smallest_range_that_holds_the_values_is_taken():
    for most, bits in [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12),
                       (4096, 14), (16383, 14), (16384, 16), (65535, 16)]:  # fmt: skip
        assert stored_bits(np.array([[0, most]], np.uint16)) == bits
    assert stored_bits(np.zeros((0, 4), np.uint16)) == 8


def test_a_stated_range_is_not_guessed(tmp_path):
    """PGM files say what white is: these values are dark, not of fewer bits."""
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + bytes([0, 0, 1023 >> 8, 1023 & 255]))
    assert read_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 4]
    (tmp_path / "b.pgm").write_bytes(b"P5 2 1 4095\n" + bytes([0, 0, 4095 >> 8, 4095 & 255]))
    assert read_image(tmp_path / "b.pgm")[0, :, 0].tolist() == [0, 255]


# --- Animations and files of several pages ---


@pytest.fixture(params=["gif", "webp", "png", "tif"])
def several(request, tmp_path, photo) -> tuple[Path, list[np.ndarray]]:
    """A file of three frames or pages, and their pixels."""
    frames = [photo.quantize(32, dither=0).convert("RGB")]
    frames += [frames[0].rotate(90 * i, expand=False) for i in (1, 2)]
    path = tmp_path / f"a.{request.param}"
    options = {} if request.param == "tif" else {"duration": [40, 60, 200]}
    if request.param == "webp":
        options["lossless"] = True
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path, [np.asarray(frame) for frame in frames]


def test_frames_are_read_one_by_one(several):
    path, frames = several
    read = list(read_frames(path, "RGB"))
    assert len(read) == 3
    for found, expected in zip(read, frames, strict=True):
        assert found.flags.writeable and found.flags.c_contiguous
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(list(read_frames(path))[2], frames[2][:, :, ::-1])
    times = frame_times(path)
    assert len(times) == 3
    if path.suffix in (".gif", ".webp"):
        assert times == pytest.approx([0.04, 0.06, 0.2])


def test_several_frames_are_never_taken_for_one_image(several):
    path, _ = several
    for reader in (read_image, read_label_map, read_panoptic_png, image_header):
        with pytest.raises(ValueError, match=r"--video-input") as error:
            reader(path)
        assert str(error.value).startswith(f"{path}: an animation or a file of several pages")


def test_one_frame_is_an_image(tmp_path, photo):
    photo.save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp", "RGB"), np.asarray(photo))
    (frame,) = read_frames(tmp_path / "a.webp", "RGB")
    np.testing.assert_array_equal(frame, np.asarray(photo))


def test_previews_are_no_pages(tmp_path, photo):
    """Pyramids in TIFF files, and the further images of a telephone's JPEG file."""
    small = photo.resize((20, 30))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    photo.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    photo.save(tmp_path / "telephone.jpg", "MPO", save_all=True, append_images=[small])
    with Image.open(tmp_path / "pyramid.tif") as image:
        assert image.n_frames == 2
    with Image.open(tmp_path / "telephone.jpg") as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif", "RGB"), np.asarray(photo))
    assert read_image(tmp_path / "telephone.jpg").shape == (photo.height, photo.width, 3)
    assert len(list(read_frames(tmp_path / "pyramid.tif"))) == 1


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "int.tif")
    for name in ("float.tif", "int.tif"):
        with pytest.raises(ImageReadError, match=rf"{name}.*no defined range"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_content_in_memory_is_decoded_like_files(tmp_path, photo, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(path, exif=exif)
    content = path.read_bytes()
    np.testing.assert_array_equal(decode_image(content), read_image(path))
    np.testing.assert_array_equal(decode_image(content, "RGB"), read_image(path, "RGB"))
    check_header(content)
    with pytest.raises(ImageReadError, match=r"^upload: not an image"):
        check_header(b"no image at all" * 9, name="upload")
    with pytest.raises(ImageReadError, match=r"^upload: damaged"):
        decode_image(content[: len(content) // 2], name="upload")


def test_images_of_too_many_pixels_are_refused_by_their_header(tmp_path, photo):
    photo.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    count = photo.width * photo.height
    assert decode_image(content, most_pixels=count).shape == (photo.height, photo.width, 3)
    header = content[:60]  # nothing else is needed
    for call in (decode_image, check_header):
        with pytest.raises(TooManyPixelsError, match=rf"{photo.width} x {photo.height} pixels"):
            call(header, most_pixels=count - 1)


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
