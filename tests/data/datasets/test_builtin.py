"""Every built-in data set is registered in the same way as in the published code."""

import builtins
import gzip
import io
import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, COCO_CATEGORIES
from detectron2.data.datasets.coco import load_coco_json
from support import REPOSITORY

from mask2former import load_config
from mask2former.data import DatasetError, register_builtin, unregister_builtin
from mask2former.data.datasets.coco_instances import load_coco_instances
from mask2former.data.datasets.coco_panoptic import load_coco_panoptic
from mask2former.model_zoo import get_config_file, model_names

FIXTURE = REPOSITORY / "tests/fixtures/dataset_metadata.json.gz"
PUBLISHED = json.loads(gzip.decompress(FIXTURE.read_bytes()))
# Registered by Detectron2 itself. Whether the things of its "standard" panoptic set are 80 classes
# or all 133 depends on its version.
DETECTRON2S = {name for name in PUBLISHED if name.startswith("coco_2017_val_panoptic")} - {
    "coco_2017_val_panoptic_with_sem_seg"
}
OURS = sorted(set(PUBLISHED) - DETECTRON2S)


@pytest.fixture
def registrations():
    """Undo the registrations of the test afterwards."""
    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_builtin("datasets")
    yield
    DatasetCatalog.data, MetadataCatalog.data = datasets, metadata


def as_json(value):
    """Convert ids that are keys to texts, as JSON does."""
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    return value


@pytest.mark.parametrize("name", OURS)
def test_metadata_equals_the_published(name, registrations):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name)
    for key, value in PUBLISHED[name].items():
        assert as_json(metadata.get(key, "missing")) == value, key


@pytest.mark.parametrize("name", sorted(DETECTRON2S))
def test_detectron2_registers_the_rest(name):
    assert name in DatasetCatalog
    metadata = MetadataCatalog.get(name).as_dict()
    for key in PUBLISHED[name].keys() - {"thing_classes", "thing_colors"}:
        if isinstance(PUBLISHED[name][key], dict | list):
            assert as_json(metadata[key]) == PUBLISHED[name][key], key


@pytest.mark.parametrize("name", model_names())
def test_published_configs_name_registered_data_sets(name):
    cfg = load_config(get_config_file(name))
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert dataset in DatasetCatalog
        metadata = MetadataCatalog.get(dataset)
        lengths = {len(metadata.get(f"{kind}_classes", ())) for kind in ("thing", "stuff")}
        assert num_classes in lengths
        assert metadata.evaluator_type


def test_ids_of_classes_are_contiguous():
    for name in OURS:
        metadata = MetadataCatalog.get(name)
        ids = metadata.get("stuff_dataset_id_to_contiguous_id")
        if ids is not None:
            assert list(ids.values()) == list(range(len(metadata.stuff_classes)))
            things = metadata.get("thing_dataset_id_to_contiguous_id", {})
            assert things.items() <= ids.items()


def test_colors_of_ade20k_semantic():
    assert ADE20K_SEM_SEG_CATEGORIES[4:6] == ["tree", "ceiling"]
    for split in ("train", "val"):
        metadata = MetadataCatalog.get(f"ade20k_sem_seg_{split}")
        panoptic = MetadataCatalog.get(f"ade20k_panoptic_{split}")
        assert metadata.stuff_classes == panoptic.stuff_classes
        assert metadata.stuff_colors == panoptic.stuff_colors


def test_detectron2s_ade20k_says_how_to_make_its_label_maps(registrations, tmp_path):
    name, folder = "ade20k_sem_seg_val", tmp_path / "labels"
    unregister_builtin()
    assert DatasetCatalog[name].__module__ == "detectron2.data.datasets.builtin"
    DatasetCatalog[name] = lambda: ["a record"]
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).sem_seg_root = str(folder)
    register_builtin(tmp_path)
    with pytest.raises(DatasetError, match=rf"^{folder}: .*preparation ade20k-semantic$"):
        DatasetCatalog.get(name)
    explained = DatasetCatalog[name]
    register_builtin(tmp_path)
    assert DatasetCatalog[name] is explained  # not wrapped twice
    folder.mkdir()
    assert DatasetCatalog.get(name) == ["a record"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("ade20k_instance_val", "python -m mask2former.data.preparation ade20k-instance"),
        ("ade20k_panoptic_train", "python -m mask2former.data.preparation ade20k-panoptic"),
        ("coco_2017_val_panoptic_with_sem_seg", "COCO's 2017"),
        ("mapillary_vistas_panoptic_val", r"Mapillary Vistas 1\.2"),
        ("mapillary_vistas_sem_seg_train", r"Mapillary Vistas 1\.2"),
        (
            "synthetic_shapes_instance_val",
            r"python -m mask2former\.data\.preparation\.synthetic --output ",
        ),
        ("ade20k_full_sem_seg_train", "images_detectron2"),
        ("coco_2017_test_stuff_10k_sem_seg", "images_detectron2"),
    ],
)
def test_missing_files(name, hint, registrations, tmp_path):
    register_builtin(tmp_path / "missing")
    message = rf"^{tmp_path}/missing/\S+: there is no such .* that exists is {tmp_path}\..*{hint}"
    if "full" in name or "10k" in name:
        message = rf"^{tmp_path}/missing/\S+{hint}\S+: there is no such folder of images"
    with pytest.raises(DatasetError, match=message):
        DatasetCatalog.get(name)


def test_another_root_replaces_the_first(registrations, tmp_path, monkeypatch):
    for root in (tmp_path / "a", str(tmp_path / "b")):
        register_builtin(root)
        for name in OURS:
            assert MetadataCatalog.get(name).image_root.startswith(f"{root}/")
    monkeypatch.setenv("HOME", "/home/somebody")
    register_builtin("~/data")
    assert MetadataCatalog.get(OURS[0]).image_root.startswith("/home/somebody/data/")


def test_earlier_registrations_of_others_stay(registrations, tmp_path):
    unregister_builtin()
    theirs = [{"file_name": "theirs.jpg"}]
    DatasetCatalog.register("ade20k_panoptic_val", lambda: theirs)
    MetadataCatalog.get("ade20k_panoptic_val").set(stuff_classes=["their class"])
    for _ in range(2):
        register_builtin(tmp_path)
        assert DatasetCatalog.get("ade20k_panoptic_val") is theirs
        assert MetadataCatalog.get("ade20k_panoptic_val").stuff_classes == ["their class"]
        assert MetadataCatalog.get("ade20k_panoptic_val").get("image_root") is None
    unregister_builtin()
    assert DatasetCatalog.get("ade20k_panoptic_val") is theirs


def test_others_can_register_afterwards(registrations):
    unregister_builtin()
    assert not set(OURS) & set(DatasetCatalog)
    assert "coco_2017_train_panoptic" in DatasetCatalog  # Detectron2's data sets stay
    for name in OURS:
        metadata = {k: v for k, v in PUBLISHED[name].items() if k != "name"}
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(**metadata)


def test_registration_does_not_look_at_files_of_data_sets(registrations, monkeypatch):
    def guard(module, name):
        original = getattr(module, name)

        def guarded(path, *args, **kwargs):
            assert "nowhere" not in str(path)
            return original(path, *args, **kwargs)

        monkeypatch.setattr(module, name, guarded)

    for module, name in (
        (os, "stat"),
        (os, "listdir"),
        (os, "scandir"),
        (io, "open"),
        (builtins, "open"),
    ):
        guard(module, name)
    with pytest.raises(AssertionError):
        os.path.exists("/nowhere")
    register_builtin("/nowhere")
    assert MetadataCatalog.get("ade20k_full_sem_seg_val").image_root.startswith("/nowhere/")


def test_cocos_own_names_have_the_records_of_detectron2(tmp_path):
    """Their files are checked, and the result is the same."""
    masks = ([[1, 1, 9, 1, 9, 7.5]], {"size": [8, 10], "counts": [10, 20, 50]}, [[1, 2, 3, 4]])
    annotations = [
        {"id": i, "image_id": 2 - i % 2, "category_id": 90 - i, "segmentation": mask, "area": 4,
         "bbox": [1, 1, 8, 6.5], "iscrowd": i % 2}
        for i, mask in enumerate(masks)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 10} for i in (2, 1, 3)]
    categories = [c for c in COCO_CATEGORIES if c["isthing"]]
    path = tmp_path / "instances.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    load = DatasetCatalog["coco_2017_val"].load
    metadata = MetadataCatalog.get("coco_2017_val")
    assert load.func is load_coco_instances
    assert load.args[:2] == (metadata.json_file, metadata.image_root)
    ours = load_coco_instances(str(path), "images", load.args[2])
    for record in ours:
        for annotation in record["annotations"]:
            del annotation["id"]
    assert ours == load_coco_json(str(path), "images", "coco_2017_val")

    load = DatasetCatalog["coco_2017_train_panoptic"].load
    metadata = MetadataCatalog.get("coco_2017_train_panoptic")
    assert load.func is load_coco_panoptic
    assert load.args == (metadata.panoptic_json, metadata.panoptic_root, metadata.image_root)
    classes = load.keywords["classes"]
    assert list(classes.names) == metadata.stuff_classes
    ids = metadata.thing_dataset_id_to_contiguous_id | metadata.stuff_dataset_id_to_contiguous_id
    assert classes.index == ids
    assert {classes.ids[i] for i in classes.things} == set(
        metadata.thing_dataset_id_to_contiguous_id
    )
