"""Own data of many channels, 16 bits or fractions: from the folder to predictions."""

import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from support import QUICKSTART, TINY

from mask2former import Mask2Former, load_config
from mask2former.checkpoint import Checkpointer, WeightsError, load_weights
from mask2former.checkpoint.resizing import resized
from mask2former.cli.main import main
from mask2former.data.errors import DatasetError
from mask2former.data.mapper import build_mapper
from mask2former.data.own_data import InstanceData, check_own_data
from mask2former.inference.predictor import Predictor
from mask2former_runtime import load as load_in_runtime
from mask2former_runtime.cli import main as runtime_main

SPLITS = ("train", "val")


def five_channels(pixels):
    """Return fractions of which channels 1 and 3 show the objects, and the others nothing."""
    generator = np.random.default_rng(int(pixels.sum()))
    image = generator.normal(0, 1, (*pixels.shape[:2], 5)).astype(np.float32)
    image[..., 1] = pixels[..., 0] * 40.0 - 2000
    image[..., 3] = pixels[..., 2] / 1000 + 5
    return image


def converted(datasets, folder, change, suffix):
    """Write the instances of the synthetic set with other image files."""
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        source = datasets / "synthetic_shapes"
        content = json.loads((source / f"annotations/instances_{split}.json").read_text())
        for record in content["images"]:
            pixels = np.asarray(Image.open(source / split / record["file_name"]).convert("RGB"))
            record["file_name"] = f"{record['id']}{suffix}"
            change(pixels, folder / split / record["file_name"])
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def fractions(datasets, tmp_path):
    def write(pixels, path):
        np.save(path, five_channels(pixels))

    return converted(datasets, tmp_path / "fractions", write, ".npy")


def report_of(folder, split="train", **options):
    data = InstanceData(str(folder / f"{split}.json"), str(folder / split))
    return check_own_data(data, None, **options)[0]


def test_the_check_finds_the_statistics(fractions, capfd):
    found = report_of(fractions).stored
    pixels = np.concatenate(
        [np.load(path).reshape(-1, 5) for path in (fractions / "train").iterdir()]
    ).astype(np.float64)
    assert (found.type, found.images) == ("float32", 12)
    for name, expected in (
        ("low", pixels.min(0)), ("high", pixels.max(0)), ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
    ):  # fmt: skip
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, atol=1e-6)
    assert main(["check", "--data", str(fractions)]) == 0
    out = capfd.readouterr().out
    assert "5 x float32; in 12 images" in out
    assert f"channel 3: {pixels[:, 3].min():.6g} to {pixels[:, 3].max():.6g}" in out


def test_training_chooses_the_normalisation_and_learns(fractions, tmp_path, capfd):
    run = tmp_path / "run"
    options = dict(zip(TINY[::2], TINY[1::2], strict=True))
    options |= {"SOLVER.MAX_ITER": 60, "SOLVER.BASE_LR": 0.002, "TEST.EVAL_PERIOD": 60}
    options |= {"SOLVER.IMS_PER_BATCH": 4, "TEST.REPORT": True}
    arguments = ["--data", str(fractions), "--output", str(run), "--model", "quickstart/instance"]
    pairs = (str(x) for pair in options.items() for x in pair)
    assert main(["train", *arguments, "--opts", *pairs]) == 0
    cfg = load_config(str(run / "config.yaml"))
    assert cfg.INPUT.FORMAT == "float32"
    mean, std = report_of(fractions).stored.mean, report_of(fractions).stored.std
    np.testing.assert_allclose(cfg.MODEL.PIXEL_MEAN, mean, rtol=1e-6)
    np.testing.assert_allclose(cfg.MODEL.PIXEL_STD, std, rtol=1e-6)
    rows = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    assert (run / "report.html").is_file()
    assert losses[-1] < 0.95 * losses[0], losses

    image = next((fractions / "val").iterdir())
    capfd.readouterr()
    pictures = tmp_path / "pictures"
    assert main(["predict", str(run), str(image), "--output", str(pictures)]) == 0
    assert Image.open(pictures / f"{image.stem}.png").size[1] >= 64
    model = Mask2Former.from_pretrained(run)
    of_file, of_array = (
        model.predict(image, threshold=0),
        model.predict(np.load(image), threshold=0),
    )
    of_tensor = model.predict(torch.from_numpy(np.load(image)).permute(2, 0, 1), threshold=0)
    for other in (of_array, of_tensor):
        np.testing.assert_array_equal(of_file.scores, other.scores)
    assert of_file.plot().size[1] >= 64
    assert len(model.predict([image, np.load(image)])) == 2

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    np.save(wrong / "narrow.npy", np.load(image)[..., :3])
    Image.new("RGB", (64, 64)).save(wrong / "photo.png")
    assert main(["predict", str(run), str(wrong), "--output", str(pictures)]) == 1
    lines = "".join(capfd.readouterr())
    for text in ("3 channels of float32", "3 channels of uint8"):
        assert f"{text}, and the model takes 5 channels of float32" in lines
    with pytest.raises(ValueError, match="3 channels of uint8, and the model takes 5"):
        model.predict(np.zeros((8, 8, 3), np.uint8))
    in_one_tile = model.predict(image, threshold=0, tile=4096)
    np.testing.assert_array_equal(in_one_tile.scores, of_file.scores)
    np.save(tmp_path / "mosaic.npy", np.tile(np.load(image), (2, 2, 1)))
    side = np.load(image).shape[0]
    mosaic = model.predict(tmp_path / "mosaic.npy", threshold=0, tile=side, overlap=0)
    assert mosaic.size == (2 * side, 2 * np.load(image).shape[1])
    assert len(mosaic) >= len(of_file)
    flags = ["--tile", str(side), "--output", str(pictures)]
    assert main(["predict", str(run), str(tmp_path / "mosaic.npy"), *flags]) == 0
    assert Image.open(pictures / "mosaic.png").size[1] >= 2 * side

    onnx = tmp_path / "model.onnx"
    model.export(onnx)
    in_runtime = load_in_runtime(onnx)
    for exported in (Mask2Former.from_pretrained(onnx), in_runtime):
        for source in (image, np.load(image)):
            found = exported.predict(source, threshold=0.05)
            expected = model.predict(source, threshold=0.05)
            assert found.names == expected.names
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
            assert np.mean(found.masks != expected.masks) < 1e-4
    with pytest.raises(ValueError, match="3 channels of uint8, and the model takes 5"):
        in_runtime.predict(np.zeros((8, 8, 3), np.uint8))
    command = ["predict", str(image), str(wrong), "--model", str(onnx), "--output", str(pictures)]
    assert runtime_main(command) == 1
    assert capfd.readouterr().err.count("and the model takes 5 channels of float32") == 2


def test_the_users_values_win(fractions, tmp_path):
    from mask2former.engine.data_flags import register_run_datasets
    from mask2former.engine.settings.run_settings import set_up_run
    from mask2former.engine.setup import argument_parser

    words = ["--config-file", str(QUICKSTART), "--data", str(fractions)]
    args = argument_parser().parse_args([*words, "MODEL.PIXEL_STD", "[1.,2.,3.,4.,5.]"])
    cfg = load_config(args.config_file, args.opts)
    set_up_run(cfg, args, register_run_datasets(cfg, args))
    assert cfg.MODEL.PIXEL_STD == [1, 2, 3, 4, 5] and len(cfg.MODEL.PIXEL_MEAN) == 5


def spoil_nan(path):
    image = np.load(path)
    image[0, 0, 0] = np.nan
    np.save(path, image)


def spoil_objects(path):
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)


SPOILT = {
    "holds NaN": spoil_nan,
    "Python objects": spoil_objects,
    "4 channels of float32, and most images have 5": lambda p: np.save(p, np.load(p)[..., :4]),
    "5 channels of int16, and most images": lambda p: np.save(p, np.load(p).astype("int16")),
    "cut off": lambda p: p.write_bytes(p.read_bytes()[:-100]),
    "an array of complex128": lambda p: np.save(p, np.load(p).astype(complex)),
}


@pytest.mark.parametrize("problem", SPOILT)
@pytest.mark.parametrize("pixels", [None, False])
def test_bad_files_are_named(fractions, problem, pixels):
    path = sorted((fractions / "train").iterdir())[3]
    SPOILT[problem](path)
    with pytest.raises(DatasetError) as error:
        report_of(fractions, pixels=pixels)
    (line,) = [x for x in str(error.value).splitlines() if problem in x]
    assert path.name in line
    assert "1 error" in str(error.value)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_16_bits_give_the_losses_of_8_bits(datasets, shapes, tmp_path):
    """Values times 257, with means and deviations times 257, are the same images."""
    rasterio = pytest.importorskip("rasterio")

    def write(pixels, path):
        height, width = pixels.shape[:2]
        options = {"driver": "PNG", "height": height, "width": width, "count": 3, "dtype": "uint16"}
        with rasterio.open(path, "w", **options) as file:
            file.write(np.moveaxis(pixels.astype(np.uint16) * 257, 2, 0))

    folder = converted(datasets, tmp_path / "deep", write, ".png")
    assert report_of(folder).stored.type == "uint16"
    losses = []
    fixed = ["INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0]
    for kind in ("RGB", "uint16"):
        cfg = load_config(str(QUICKSTART), [*TINY, *fixed, "INPUT.FORMAT", kind])
        cfg.DATASETS.TRAIN = ()
        scale = 1 if kind == "RGB" else 257
        cfg.MODEL.PIXEL_MEAN = [scale * x for x in cfg.MODEL.PIXEL_MEAN]
        cfg.MODEL.PIXEL_STD = [scale * x for x in cfg.MODEL.PIXEL_STD]
        content = json.loads((folder / "train.json").read_text())
        original = datasets / "synthetic_shapes/annotations/instances_train.json"
        records = content if kind == "uint16" else json.loads(original.read_text())
        root = folder / "train" if kind == "uint16" else datasets / "synthetic_shapes/train"
        mapper = build_mapper(cfg)
        image = records["images"][0]
        np.random.seed(0)  # noqa: NPY002  the augmentations draw from it
        sample = mapper(
            {
                "file_name": str(root / image["file_name"]),
                "image_id": 0,
                "annotations": [
                    {**a, "bbox_mode": 1, "category_id": 0}
                    for a in records["annotations"]
                    if a["image_id"] == image["id"]
                ],
            }
        )
        torch.manual_seed(0)
        model = build_model(cfg)
        torch.manual_seed(1)
        losses.append(model([{**sample, "seed": 1}]))
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 13])
@pytest.mark.parametrize("backbone", ["ResNet", "Swin"])
def test_the_stem_answers_grey_images_as_before(tiny_cfg, channels, backbone):
    if backbone == "Swin":
        tiny_cfg.MODEL.BACKBONE.NAME = "D2SwinTransformer"
        tiny_cfg.MODEL.SWIN.EMBED_DIM, tiny_cfg.MODEL.SWIN.DEPTHS = 12, [1, 1, 1, 1]
    before = build_model(tiny_cfg)
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [0.0] * channels, [1.0] * channels
    after = build_model(tiny_cfg)
    state, note = resized(before.state_dict(), after)
    assert f"takes 3 channels, that of the model {channels}" in note
    after.load_state_dict(state)
    grey = torch.randn(1, 1, 32, 32)
    stems = [
        x.backbone.stem if backbone == "ResNet" else x.backbone.patch_embed for x in (before, after)
    ]
    answers = [
        s.eval()(grey.expand(1, n, 32, 32)) for s, n in zip(stems, (3, channels), strict=True)
    ]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def test_training_starts_from_weights_for_colours(tiny_cfg, tmp_path, caplog):
    Checkpointer(build_model(tiny_cfg), str(tmp_path)).save("colours")
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [0.0] * 5, [1.0] * 5
    model = build_model(tiny_cfg)
    with caplog.at_level("INFO"):
        Checkpointer(model, for_training=True).load(str(tmp_path / "colours.pth"), [])
    assert caplog.text.count("takes 3 channels, that of the model 5") == 1
    with pytest.raises(WeightsError, match=r"backbone\.stem\.conv1\.weight"):
        load_weights(model, str(tmp_path / "colours.pth"))  # a trained model is never changed


def test_geometry_moves_fractions_like_masks(fractions, tiny_cfg):
    """Large-scale jitter enlarges, crops and pads; padding has the value of the mean."""
    tiny_cfg.INPUT.FORMAT = "float32"
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5
    tiny_cfg.INPUT.MIN_SCALE = tiny_cfg.INPUT.MAX_SCALE = 0.5
    path = next((fractions / "train").iterdir())
    sample = build_mapper(tiny_cfg)({"file_name": str(path), "image_id": 0, "annotations": []})
    image, padding = sample["image"], sample["padding_mask"]
    assert image.dtype == torch.float32 and image.shape == (5, 64, 64)
    assert (image[:, padding] == torch.arange(1.0, 6.0)[:, None]).all() and padding.sum() == 3072
    # Halving with a triangle filter keeps the mean of an image up to its border.
    means = image[:, ~padding].mean(1), torch.from_numpy(np.load(path)).mean((0, 1))
    torch.testing.assert_close(*means, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("key", "value"), [("AUGMENTATION", "aerial"), ("ALBUMENTATIONS", "pipeline.yaml")]
)
def test_steps_for_colours_are_refused(tiny_cfg, key, value):
    tiny_cfg.INPUT.FORMAT, tiny_cfg.INPUT[key] = "uint16", value
    with pytest.raises(ValueError, match=rf"INPUT.{key} {value} changes colours of 8 bits"):
        build_mapper(tiny_cfg)


def test_a_mixture_is_read_as_pictures_if_most_are(datasets, tmp_path, capfd):
    """16-bit files among 8-bit ones are pictures, as they were before."""
    folder = tmp_path / "mixed"
    converted(datasets, folder, lambda pixels, path: Image.fromarray(pixels).save(path), ".png")
    path = sorted((folder / "train").iterdir())[0]
    Image.fromarray(np.full((64, 64), 999, np.uint16)).save(path)
    assert report_of(folder).stored is None
    shutil.copy(path, path.with_suffix(".tif"))
    Image.fromarray(np.zeros((64, 64), np.float32)).save(path, format="TIFF")
    with pytest.raises(DatasetError, match="floating-point pixels have no defined range"):
        report_of(folder)


def test_sets_of_two_kinds_are_refused(datasets, fractions):
    data = [InstanceData(str(fractions / f"{s}.json"), str(fractions / s)) for s in SPLITS]
    source = datasets / "synthetic_shapes"
    pictures = InstanceData(str(source / "annotations/instances_val.json"), str(source / "val"))
    with pytest.raises(DatasetError, match="pictures of 8 bits here and 5 x float32 there"):
        check_own_data(data[0], pictures)


def test_the_predictor_refuses_what_it_cannot_take(tiny_cfg):
    tiny_cfg.MODEL.PIXEL_MEAN, tiny_cfg.MODEL.PIXEL_STD = [0.0] * 5, [1.0] * 5
    model = build_model(tiny_cfg)
    predictor = Predictor(model, min_size=64, max_size=64, image_format="float32", channels=5)
    assert "instances" in predictor(np.zeros((40, 50, 5), np.float32))
    with pytest.raises(ValueError, match="4 channels"):
        predictor(np.zeros((40, 50, 4), np.float32))
