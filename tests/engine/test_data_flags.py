"""A user's own data of every kind, from arguments to registered data sets and a config."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image
from support import REPOSITORY

from mask2former import load_config
from mask2former.data import DatasetError
from mask2former.data.metadata import write_metadata
from mask2former.data.split import Split
from mask2former.engine import launch
from mask2former.engine.data_flags import register_run_datasets
from mask2former.engine.setup import argument_parser, check_datasets
from mask2former.evaluation import check_evaluation
from mask2former.evaluation.coco import COCOInstanceEvaluator
from mask2former.evaluation.ground_truth import PanopticTruth

THINGS = ["disk", "ring", "rectangle", "triangle", "star"]
CLASSES = [*THINGS, "paper", "gravel"]
NO_CUDA = ["MODEL.DEVICE", "cpu"]


def config_file(task):
    return str(REPOSITORY / f"configs/quickstart/{task}.yaml")


def flags(folder, task, splits=("train", "val")):
    """The arguments of a user who has the synthetic data."""
    arguments = []
    for split in splits:
        arguments += [f"--{split}-images", folder / split]
        if task != "semantic":
            kind = "instances" if task == "instance" else "panoptic"
            arguments += [f"--{split}-json", folder / f"annotations/{kind}_{split}.json"]
        if task == "panoptic":
            arguments += [f"--{split}-panoptic", folder / f"panoptic_{split}"]
        if task == "semantic":
            arguments += [f"--{split}-labels", folder / f"semantic_{split}"]
    return arguments


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(CLASSES))
    return ["--classes", path]


def run(task, *arguments, config=None):
    """Return the config after the data were registered."""
    path = config or config_file(task)
    args = argument_parser().parse_args(["--config-file", *map(str, (path, *arguments))])
    cfg = load_config(path, args.opts)
    register_run_datasets(cfg, args)
    check_datasets(cfg, args.eval_only)
    return cfg


def error(*arguments, **options):
    with pytest.raises(ValueError) as caught:
        run(*arguments, **options)
    return str(caught.value)


def test_panoptic_data(shapes, capsys):
    cfg = run("panoptic", *flags(shapes, "panoptic"), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 3)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 7
    assert not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    printed = capsys.readouterr().out
    assert "12 images (0 without segments)" in printed and "4 images (0 without" in printed
    (train,), (val,) = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    for name, count in ((train, 12), (val, 4)):
        metadata = MetadataCatalog.get(name)
        assert metadata.stuff_classes == CLASSES
        assert metadata.evaluator_type == "coco_panoptic_seg"
        # equal to those of the built-in data set of the same files
        builtin = MetadataCatalog.get("synthetic_shapes_panoptic_train")
        for kind in ("thing", "stuff"):
            key = f"{kind}_dataset_id_to_contiguous_id"
            assert metadata.get(key) == builtin.get(key)
        records = DatasetCatalog.get(name)
        assert len(records) == count
        assert {s["category_id"] for r in records for s in r["segments_info"]} <= set(range(7))


def test_semantic_data(shapes, classes):
    cfg = run("semantic", *flags(shapes, "semantic"), *classes)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 7
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 255
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    assert (metadata.stuff_classes, metadata.ignore_label) == (CLASSES, 255)
    assert metadata.evaluator_type == "sem_seg"
    record = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]
    assert set(np.unique(Image.open(record["sem_seg_file_name"]))) <= {*range(7), 255}


def test_another_label_may_be_the_one_to_ignore(shapes, tmp_path):
    (tmp_path / "six.txt").write_text("\n".join(CLASSES[:6]))
    for split in ("train", "val"):  # 16 bits, and gravel is the label to ignore
        (tmp_path / split).mkdir()
        for path in (shapes / f"semantic_{split}").iterdir():
            labels = np.asarray(Image.open(path)).astype(np.uint16)
            labels[labels == 255] = 6
            Image.fromarray(labels).save(tmp_path / split / path.name)
    arguments = flags(shapes, "semantic")
    arguments[3], arguments[7] = tmp_path / "train", tmp_path / "val"
    arguments += ["--classes", tmp_path / "six.txt"]
    message = error("semantic", *arguments)
    assert "if 6 stands for no class, add --ignore-label 6" in message
    cfg = run("semantic", *arguments, "--ignore-label", 6)
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 6
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).ignore_label == 6


def test_one_message_lists_the_mistakes_of_both_sets(shapes, tmp_path, classes):
    content = json.loads((shapes / "annotations/panoptic_train.json").read_text())
    content["annotations"][0]["segments_info"][0]["category_id"] = 99
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    content = json.loads((shapes / "annotations/panoptic_val.json").read_text())
    content["categories"][0].update(name="circle")
    content["categories"][1]["isthing"] = 0
    del content["categories"][-1]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    arguments = flags(shapes, "panoptic")
    arguments[3], arguments[9] = broken, other
    message = error("panoptic", *arguments)
    for part in (
        "category_id is 99",
        "id 1 is 'circle' here and 'disk' there",
        "id 2, 'ring', is stuff here and thing there",
        "class missing in 'categories' of validation",
        "gravel",
    ):
        assert part in message, part
    # Without reading pixels, the ids of PNG files are not compared.
    arguments = flags(shapes, "panoptic")
    arguments[5], arguments[11] = arguments[11], arguments[5]
    assert "PNG file not found" in error("panoptic", *arguments, "--skip-pixel-check")

    labels = flags(shapes, "semantic")
    assert "label without a class" in error(
        "semantic", *labels, "--classes", _lines(tmp_path, CLASSES[:3])
    )
    run("semantic", *labels, "--classes", _lines(tmp_path, CLASSES[:3]), "--skip-pixel-check")


def _lines(folder, names):
    path = folder / "names.txt"
    path.write_text("\n".join(names))
    return path


@pytest.mark.parametrize(
    "data, config, parts",
    [
        ("instance", "panoptic", ["coco_panoptic_lsj", "NAME coco_instance_lsj"]),
        ("instance", "semantic", ["mask_former_semantic", "TEST.INSTANCE_ON True"]),
        ("panoptic", "instance", ["coco_instance_lsj", "TEST.PANOPTIC_ON True"]),
        ("panoptic", "semantic", ["mask_former_semantic", "NAME coco_panoptic_lsj"]),
        ("semantic", "instance", ["coco_instance_lsj", "TEST.SEMANTIC_ON True"]),
        ("semantic", "panoptic", ["coco_panoptic_lsj", "TEST.PANOPTIC_ON False"]),
    ],
)
def test_data_of_another_task_than_the_config(shapes, classes, data, config, parts):
    arguments = [*flags(shapes, data), *(classes if data == "semantic" else ())]
    message = error(config, *arguments)
    assert message.startswith(f"the data are for {data} segmentation")
    for part in parts:
        assert part in message
    assert f"configs/quickstart/{data}.yaml" in message
    published = next(word for word in message.split() if word.startswith("configs/"))
    assert (REPOSITORY / published).is_file()
    # The remedies in the message work: the published config, and the keys.
    keys = message.split("or add: ")[1].split()
    for cfg in (
        run(data, *arguments, *NO_CUDA, config=str(REPOSITORY / published)),
        run(config, *arguments, *keys),
    ):
        assert cfg.DATASETS.TRAIN[0].startswith("custom_train_")


@pytest.mark.parametrize(
    "arguments, part",
    [
        (["--train-json", "a.json", "--train-labels", "x"], "--train-labels is for label maps"),
        (["--val-panoptic", "a", "--ignore-label", "3"], "--ignore-label is for label maps"),
        (["--train-images", "a"], "--train-images needs annotations too"),
        (["--train-json", "a"], "needs --train-images too"),
        (["--classes", "a"], "needs --train-images and --train-labels too"),
        (["--train-panoptic", "a"], "needs --train-json and --train-images too"),
        (["--val-json", "a"], "needs --train-json and --train-images and --val-images too"),
    ],
)
def test_incomplete_arguments_are_named(arguments, part):
    assert part in error("panoptic", *arguments)


def test_panoptic_json_asks_for_its_folder(shapes):
    arguments = flags(shapes, "panoptic")
    message = error("panoptic", *arguments[:4], *arguments[6:10])
    folders = [shapes / f"panoptic_{split}" for split in ("train", "val")]
    assert "needs --train-panoptic and --val-panoptic too" in message
    assert f"(perhaps --train-panoptic {folders[0]} --val-panoptic {folders[1]})" in message


def test_label_maps_ask_for_their_classes(shapes):
    assert "need --classes FILE" in error("semantic", *flags(shapes, "semantic"))


# --- Evaluation of a trained model ---


@pytest.fixture(params=["instance", "panoptic", "semantic"])
def trained(request, shapes, tmp_path, classes):
    """Task, config of an output folder, arguments of its validation set."""
    task = request.param
    with_classes = classes if task == "semantic" else []
    cfg = run(task, *flags(shapes, task), *with_classes)
    folder = tmp_path / "run"
    folder.mkdir()
    write_metadata(folder / "metadata.json", cfg.DATASETS.TRAIN[0])
    (folder / "config.yaml").write_text(cfg.dump())
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):  # a new process does not have them
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return task, str(folder / "config.yaml"), flags(shapes, task, ["val"])


def test_evaluation_takes_the_classes_of_the_run(trained):
    task, config, arguments = trained
    cfg = run(task, "--eval-only", *arguments, config=config)
    assert cfg.DATASETS.TRAIN == ()
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    key = "thing_classes" if task == "instance" else "stuff_classes"
    assert metadata.get(key) == (THINGS if task == "instance" else CLASSES)
    if task == "panoptic":
        ids = metadata.thing_dataset_id_to_contiguous_id
        assert sorted(ids.values()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("trained", ["instance"], indirect=True)
def test_evaluation_data_may_lack_a_class_of_the_run(trained, tmp_path):
    task, config, arguments = trained
    content = json.loads(Path(arguments[3]).read_text())
    del content["categories"][1]
    objects = content["annotations"]
    content["annotations"] = [o for o in objects if o["category_id"] != 2]
    arguments[3] = tmp_path / "four.json"
    arguments[3].write_text(json.dumps(content))
    cfg = run(task, "--eval-only", *arguments, config=config)
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes == THINGS


def test_evaluation_rejects_other_classes(trained, tmp_path):
    task, config, arguments = trained
    if task == "semantic":
        other = _lines(tmp_path, ["circle", *CLASSES[1:]])
        arguments = [*arguments, "--classes", other]
        fewer = [*arguments[:-1], tmp_path / "few.txt"]
        fewer[-1].write_text("a\nb")
    else:
        content = json.loads(Path(arguments[3]).read_text())
        content["categories"][0]["name"] = "circle"
        other = tmp_path / "other.json"
        other.write_text(json.dumps(content))
        arguments = [*arguments]
        arguments[3] = other
        fewer = arguments
    message = error(task, "--eval-only", *arguments, config=config)
    assert "is 'circle' here and 'disk' there" in message
    # Where the names of the classes are not known, the message gives their number.
    Path(config).with_name("metadata.json").unlink()
    number = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 9]
    if task == "semantic":
        with pytest.raises(DatasetError):
            run(task, "--eval-only", *fewer, config=config)
        assert "no metadata.json beside config and weights names them" in error(
            task, "--eval-only", *arguments[:-2], config=config
        )
    count = 5 if task == "instance" else 7
    message = error(task, "--eval-only", *arguments, *number, config=config)
    assert f"the model has 9 classes (MODEL.SEM_SEG_HEAD.NUM_CLASSES), but {other}" in message
    assert f"has {count}: circle, ring" in message


def test_a_run_on_own_data_asks_for_them_again(trained):
    task, config, _ = trained
    assert "was your own data in an earlier run" in error(task, "--eval-only", config=config)


@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST"])
def test_data_that_is_not_registered_is_named_before_training(key):
    message = error("instance", key, "('coco_2017_vall',)")
    assert message.startswith(f"{key} names 'coco_2017_vall', which is not registered. Did you ")


def test_evaluation_does_not_ask_for_the_training_data():
    run("instance", "--eval-only", "DATASETS.TRAIN", "('nothing',)")


def test_a_panoptic_model_can_be_evaluated_on_label_maps(shapes, tmp_path):
    """The model's category ids have gaps, and labels do not."""
    arguments = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False", "--classes"]
    arguments.append(_lines(tmp_path, CLASSES))
    cfg = run("panoptic", *flags(shapes, "panoptic"))
    write_metadata(tmp_path / "metadata.json", cfg.DATASETS.TRAIN[0])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    labels = flags(shapes, "semantic", ["val"])
    config = str(tmp_path / "config.yaml")
    cfg = run("panoptic", "--eval-only", *labels, *arguments[:2], config=config)
    assert MetadataCatalog.get(cfg.DATASETS.TEST[0]).stuff_classes == CLASSES
    assert "PANOPTIC_ON False" in error("panoptic", "--eval-only", *labels, config=config)


def _two_processes(arguments, broken, folder):
    """In each of two processes: take good data, then broken ones."""
    cfg = run("panoptic", *arguments)
    message = error("panoptic", *broken)
    content = {"names": [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST], "message": message}
    path = Path(folder) / f"{comm.get_rank()}.json"
    path.write_text(json.dumps(content | {"classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}))


def test_one_process_checks_for_all(shapes, tmp_path, capfd):
    arguments = [str(argument) for argument in flags(shapes, "panoptic")]
    broken = [*arguments]
    broken[1] = str(tmp_path)
    launch(_two_processes, 2, dist_url="auto", args=(arguments, broken, str(tmp_path)))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["names"] == second["names"] and first["classes"] == second["classes"] == 7
    assert "12 errors" in first["message"]
    assert second["message"] == first["message"]
    assert capfd.readouterr().out.count("12 images") == 1


def test_a_folder_of_data(shapes, tmp_path, capsys):
    """The config says which of the annotations in the folder are used."""
    for task, count in (("instance", 5), ("panoptic", 7)):
        cfg = run(task, "--data", shapes)
        assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (
            run(task, *flags(shapes, task)).DATASETS.TRAIN,
            run(task, *flags(shapes, task)).DATASETS.TEST,
        )
        assert count == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert f"{shapes}: COCO panoptic JSON and PNG files" in capsys.readouterr().out
    assert "label maps need --classes FILE" in error("semantic", "--data", shapes)
    message = error("panoptic", "--data", shapes, "--train-json", "a.json")
    assert message == "--data and --train-json: give one or the other"


def test_a_folder_of_label_maps(shapes, classes):
    cfg = run("semantic", "--data", shapes, *classes)
    assert (
        cfg.DATASETS.TRAIN == run("semantic", *flags(shapes, "semantic"), *classes).DATASETS.TRAIN
    )


def test_a_folder_without_validation(shapes, tmp_path, capsys):
    (tmp_path / "images").symlink_to(shapes / "train")
    (tmp_path / "result.json").symlink_to(shapes / "annotations/instances_train.json")
    cfg = run("instance", "--data", tmp_path, "OUTPUT_DIR", tmp_path)
    assert len(cfg.DATASETS.TRAIN) == len(cfg.DATASETS.TEST) == 1
    assert "2 of 12 images are for validation" in capsys.readouterr().out
    cfg = run("instance", "--data", tmp_path, "TEST.EVAL_PERIOD", 0)
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 12 and cfg.DATASETS.TEST == ()
    cfg = run(
        "instance", "--data", tmp_path, "--eval-only", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5
    )  # there are no splits: all is evaluated
    assert len(cfg.DATASETS.TEST) == 1 and cfg.DATASETS.TRAIN == ()
    (tmp_path / "result.json").rename(tmp_path / "train.json")
    assert "has no validation set" in error("instance", "--data", tmp_path, "--eval-only")


# --- One set that is divided ---


def parts_of(cfg):
    """The image names of the training and of the validation set."""
    return [
        [Path(record["file_name"]).name for record in DatasetCatalog.get(name)]
        for (name,) in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    ]


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_a_single_set_is_divided(shapes, tmp_path, classes, task):
    """The evaluators see the ground truth of the part that is held out, and of no other image."""
    arguments = [*flags(shapes, task, ["train"]), *(classes if task == "semantic" else ())]
    arguments += ["OUTPUT_DIR", tmp_path]
    cfg = run(task, *arguments)
    train, val = parts_of(cfg)
    assert sorted(train + val) == sorted(path.name for path in (shapes / "train").iterdir())
    assert len(val) == 2
    [name] = cfg.DATASETS.TEST
    check_evaluation(cfg)
    if task == "instance":
        images = COCOInstanceEvaluator(name, output_dir=None)._coco_api.imgs
        assert sorted(Path(image["file_name"]).name for image in images.values()) == val
    if task == "panoptic":
        ids = {record["image_id"] for record in DatasetCatalog.get(name)}
        truth = PanopticTruth.of_dataset(name)
        assert truth.image_ids == ids == {image["id"] for image in truth.header["images"]}
    assert parts_of(run(task, *arguments)) == [train, val]
    other = parts_of(run(task, *arguments, "SEED", 7))
    assert sorted(other[0] + other[1]) == sorted(train + val) and other != [train, val]


def test_an_evaluation_period_of_zero_leaves_the_validation_set_out(shapes, capsys):
    data = flags(shapes, "panoptic")
    assert run("panoptic", *data, "TEST.EVAL_PERIOD", 0).DATASETS.TEST == ()
    assert "TEST.EVAL_PERIOD 0: the validation set is not used" in capsys.readouterr().out
    # A 0 of this project's configs is none of the user's, and the recipe replaces it.
    folder = REPOSITORY / "configs/mapillary-vistas/panoptic-segmentation"
    config = str(folder / "Base-MapillaryVistas-PanopticSegmentation.yaml")
    assert load_config(config).TEST.EVAL_PERIOD == 0
    for arguments in (data, flags(shapes, "panoptic", ["train"])):
        assert len(run("panoptic", *arguments, config=config).DATASETS.TEST) == 1


def test_the_file_of_a_split_decides(shapes, tmp_path):
    names = sorted(path.name for path in (shapes / "train").iterdir())
    split = Split(tuple(names[:3]), tuple(names[3:8]))  # a user's own
    arguments = [*flags(shapes, "instance", ["train"]), "OUTPUT_DIR", tmp_path]
    split.save(tmp_path)
    assert parts_of(run("instance", *arguments)) == [names[:3], names[3:8]]
    (tmp_path / "split.json").rename(tmp_path / "mine.json")
    cfg = run("instance", "--split", tmp_path / "mine.json", *arguments)
    assert parts_of(cfg) == [names[:3], names[3:8]]
    cfg = run("instance", "--split", tmp_path / "mine.json", *arguments, "TEST.EVAL_PERIOD", 0)
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 3 and cfg.DATASETS.TEST == ()
    two = [*flags(shapes, "instance"), "--split", tmp_path / "mine.json"]
    assert "there are two sets" in error("instance", *two)
    Split(("absent.png",), (names[0],)).save(tmp_path)
    message = error("instance", *arguments)
    assert f"{tmp_path}/split.json names 1 image that the data does not have: absent" in message
    assert "Traceback" not in message


def test_evaluation_leaves_out_what_the_run_trained_on(shapes, tmp_path):
    data, output = tmp_path / "data", tmp_path / "run"
    output.mkdir()
    (data / "annotations").mkdir(parents=True)
    (data / "train").symlink_to(shapes / "train")
    file = data / "annotations/instances_train.json"
    file.symlink_to(shapes / "annotations/instances_train.json")
    names = sorted(path.name for path in (shapes / "train").iterdir())
    Split(tuple(names[4:]), tuple(names[:4])).save(output)
    config = output / "config.yaml"
    config.write_text(load_config(config_file("instance")).dump())
    cfg = run("instance", "--data", data, "--eval-only", config=str(config))
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    assert [Path(record["file_name"]).name for record in records] == names[:4]
