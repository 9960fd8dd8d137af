"""Files of large images: whole, correct, in their place, and the same after a kill."""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from mosaics import CLASSES, Mosaic, Oracle, random_mosaic
from PIL import Image
from support import REPOSITORY, SOURCES

from mask2former.inference.tiling.grid import Tiling
from mask2former.inference.tiling.large_image import segment_to_files
from mask2former.inference.tiling.store import OtherSettingsError
from mask2former.inference.tiling.tiled import TiledSegmenter
from mask2former_runtime.image import ImageReadError
from mask2former_runtime.stored import StoredKind

FILES = {
    "instance": ["m.json", "m.png"],
    "panoptic": ["m.json", "m.png", "m.segments.png"],
    "semantic": ["m.json", "m.labels.png", "m.png"],
}


@pytest.fixture(scope="module")
def mosaic() -> Mosaic:
    return random_mosaic(np.random.default_rng(5), (350, 470), 40)


@pytest.fixture
def image(mosaic, tmp_path) -> Path:
    Image.fromarray(np.ascontiguousarray(mosaic.image[:, :, ::-1])).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run(task: str, image: Path, folder: Path, tile: int = 120) -> Path:
    folder.mkdir(exist_ok=True)
    segmenter = TiledSegmenter(Oracle(task), Tiling(tile, 0.2))
    segment_to_files(segmenter, image, folder / "m.png", image_id=7, quiet=True)
    return folder


@pytest.mark.parametrize("task", FILES)
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_stored_values_give_the_results_of_pictures(mosaic, image, tmp_path, task, suffix):
    path = tmp_path / f"image{suffix}"
    values = mosaic.image.astype(np.float32)
    if suffix == ".npy":
        np.save(path, values)
    else:
        rasterio = pytest.importorskip("rasterio")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", driver="GTiff", height=350, width=470, count=3, dtype="float32"
            ) as file:
                file.write(values.transpose(2, 0, 1))
    oracle = Oracle(task)
    oracle.stored = StoredKind("float32", 3)
    (tmp_path / "stored").mkdir()
    segmenter = TiledSegmenter(oracle, Tiling(120, 0.2))
    segment_to_files(segmenter, path, tmp_path / "stored/m.png", image_id=7, quiet=True)
    assert oracle.calls > 12
    found = contents(tmp_path / "stored")
    expected = contents(run(task, image, tmp_path / "pictures"))
    for name in set(FILES[task]) - {"m.png"}:
        assert found[name].replace(str(path).encode(), str(image).encode()) == expected[name]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_instances_are_the_objects_in_a_coco_file(mosaic, image, tmp_path):
    folder = run("instance", image, tmp_path / "out")
    assert sorted(contents(folder)) == FILES["instance"]
    found = json.loads((folder / "m.json").read_text())
    assert found["images"] == [{"id": 7, "file_name": str(image), "height": 350, "width": 470}]
    assert found["categories"] == CLASSES.to_categories()
    expected = {mask.tobytes(): n for n, mask in mosaic.masks().items()}
    assert len(found["annotations"]) == len(expected)
    for i, entry in enumerate(found["annotations"], start=1):
        mask = mask_util.decode(entry["segmentation"])
        n = expected.pop(mask.astype(bool).tobytes())
        assert (entry["id"], entry["image_id"], entry["iscrowd"]) == (i, 7, 0)
        assert entry["category_id"] == CLASSES.ids[mosaic.labels[n]]
        assert entry["score"] == pytest.approx(1 / (1 + n))
        assert entry["area"] == mask.sum()
        assert entry["bbox"] == mask_util.toBbox(entry["segmentation"]).tolist()
    assert Image.open(folder / "m.png").size[0] >= 470


def test_segments_are_those_of_the_map(mosaic, image, tmp_path):
    folder = run("panoptic", image, tmp_path / "out")
    assert sorted(contents(folder)) == FILES["panoptic"]
    (entry,) = json.loads((folder / "m.json").read_text())["annotations"]
    assert (entry["image_id"], entry["file_name"]) == (7, "m.segments.png")
    colors = np.asarray(Image.open(folder / "m.segments.png")).astype(int)
    ids = colors @ [1, 256, 65536]
    assert sorted(s["id"] for s in entry["segments_info"]) == np.unique(ids).tolist()
    for segment in entry["segments_info"]:
        mask = ids == segment["id"]
        (number,) = np.unique(mosaic.numbers[mask])
        assert (mask == (mosaic.numbers == number)).all()
        assert segment["category_id"] == CLASSES.ids[mosaic.labels[number]]
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert segment["area"] == mask_util.area(rle)
        assert segment["bbox"] == mask_util.toBbox(rle).tolist()


def test_labels_are_those_of_the_pixels(mosaic, image, tmp_path):
    folder = run("semantic", image, tmp_path / "out")
    assert sorted(contents(folder)) == FILES["semantic"]
    content = json.loads((folder / "m.json").read_text())
    assert content["annotations"] == [{"image_id": 7, "file_name": "m.labels.png"}]
    assert [c["name"] for c in content["categories"]] == list(CLASSES.names)
    labels = np.asarray(Image.open(folder / "m.labels.png"))
    np.testing.assert_array_equal(labels, np.array(mosaic.labels)[mosaic.numbers])


KILLED_RUN = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mosaics import Oracle
from mask2former.inference.tiling.grid import Tiling
from mask2former.inference.tiling.large_image import segment_to_files
from mask2former.inference.tiling.tiled import TiledSegmenter
task, image, picture, *moments = sys.argv[2:]
real, calls = os.replace, 0

def replace(*paths):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths)

os.replace = replace
for moment in map(int, moments):
    calls, child = 0, os.fork()
    if child == 0:
        segmenter = TiledSegmenter(Oracle(task), Tiling(120, 0.2))
        segment_to_files(segmenter, Path(image), Path(picture), image_id=7, quiet=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status)
"""


@pytest.mark.parametrize("task", FILES)
def test_a_killed_run_goes_on_and_gives_the_same_files(task, image, tmp_path):
    """Killed at every kind of moment: each time just before a file gets its name."""
    expected = contents(run(task, image, tmp_path / "expected"))
    folder = tmp_path / "killed"
    folder.mkdir()
    moments = [1, 2, 3, 9, 5, 1, 4, 12, 2, *range(1, 4), 1000]
    if task == "semantic":  # has more files
        moments = [1, 2, 30, 55, 17, 80, 3, 41, 29, *range(1, 4), 1000]
    arguments = [task, str(image), str(folder / "m.png"), *map(str, moments)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(REPOSITORY / "tests/helpers"), *arguments],
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = list(map(int, done.stdout.split()))
    assert statuses.count(-signal.SIGKILL) >= 8 and statuses[-1] == 0
    assert contents(folder) == expected


def test_what_is_done_is_not_done_again(image, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    oracle = Oracle("instance")
    find, tiles = oracle.find, []

    def interrupted(pixels, source=None):
        tiles.append(pixels)
        if len(tiles) == 6:
            raise KeyboardInterrupt
        return find(pixels, source)

    oracle.find = interrupted
    segmenter = TiledSegmenter(oracle, Tiling(120, 0.2))
    with pytest.raises(KeyboardInterrupt):
        segment_to_files(segmenter, image, folder / "m.png", quiet=True)
    segment_to_files(segmenter, image, folder / "m.png", quiet=True)
    assert len(tiles) == 4 * 5 + 1
    tiles[:] = [None] * 3
    with pytest.raises(KeyboardInterrupt):
        segment_to_files(segmenter, image, folder / "m.png", quiet=True)
    with pytest.raises(OtherSettingsError, match=r"other settings \(tile\): delete"):
        run("instance", image, folder, tile=100)


def write_geotiff(path: Path, pixels: np.ndarray, **options) -> None:
    rasterio = pytest.importorskip("rasterio")
    height, width, count = pixels.shape
    options |= {"tiled": True, "blockxsize": 64, "blockysize": 64}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no place
        file = rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype,
            **options,
        )  # fmt: skip
    with file:
        file.write(pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_maps_lie_where_the_image_lies(task, mosaic, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.transform.from_origin(399960, 5400000, 0.25, 0.25)
    pixels = np.ascontiguousarray(mosaic.image[:, :, ::-1])
    write_geotiff(tmp_path / "image.tif", pixels, crs="EPSG:32632", transform=place)
    folder = run(task, tmp_path / "image.tif", tmp_path / "out")
    (path,) = folder.glob("*.tif")
    plain = run(task, saved(pixels, tmp_path / "plain.png"), tmp_path / "plain")
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32632 and file.transform == place
        values = file.read(1)
    png = np.asarray(Image.open(plain / f"{path.stem}.png")).astype(int)
    np.testing.assert_array_equal(values, png @ [1, 256, 65536] if task == "panoptic" else png)


def test_outlines_of_instances_lie_where_the_image_lies(mosaic, tmp_path):
    """Filled again, they are the masks."""
    rasterio = pytest.importorskip("rasterio")
    from rasterio.features import rasterize

    place = rasterio.transform.from_origin(399960, 5400000, 0.25, 0.25)
    pixels = np.ascontiguousarray(mosaic.image[:, :, ::-1])
    write_geotiff(tmp_path / "image.tif", pixels, crs="EPSG:32632", transform=place)
    folder = run("instance", tmp_path / "image.tif", tmp_path / "out")
    content = json.loads((folder / "m.geojson").read_text())
    coco = json.loads((folder / "m.json").read_text())["annotations"]
    assert content["crs"]["properties"]["name"].endswith("EPSG::32632")
    assert len(content["features"]) == len(coco)
    for feature, entry in zip(content["features"], coco, strict=True):
        mask = rasterize([feature["geometry"]], mosaic.numbers.shape, transform=place)
        np.testing.assert_array_equal(mask, mask_util.decode(entry["segmentation"]))
        properties = feature["properties"]
        assert (properties["id"], properties["score"]) == (entry["id"], entry["score"])
        assert CLASSES.ids[CLASSES.names.index(properties["name"])] == entry["category_id"]


def saved(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_a_cut_off_file_is_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    write_geotiff(tmp_path / "image.tif", rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))
    content = (tmp_path / "image.tif").read_bytes()
    (tmp_path / "image.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageReadError, match=r"image.tif: damaged") as error:
        run("instance", tmp_path / "image.tif", tmp_path / "out")
    assert "\n" not in str(error.value)
