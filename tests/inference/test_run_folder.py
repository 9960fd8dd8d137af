"""The classes of a model, from the output folder of training or from registered data sets."""

import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from mask2former import add_maskformer2_config
from mask2former.data.metadata import find_classes
from mask2former.inference.run_folder import register_classes
from mask2former.structures import Classes

PANOPTIC = {
    "thing_classes": ["cat", "dog"],
    "stuff_classes": ["grass", "cat", "sky", "dog"],
    "thing_dataset_id_to_contiguous_id": {17: 1, 90: 3},
    "stuff_dataset_id_to_contiguous_id": {4: 0, 17: 1, 50: 2, 90: 3},
    "stuff_colors": [(0, 255, 0), (1, 2, 3), (9, 9, 255), (7, 8, 9)],
}


def config(count, train=(), test=()):
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = count
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
    return cfg


@pytest.fixture
def data_sets():
    names = ("test_run_folder_train", "test_run_folder_val")
    yield names
    for name in names:
        if name in MetadataCatalog:
            MetadataCatalog.remove(name)


def test_a_panoptic_run(data_sets, tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps(PANOPTIC))
    cfg = config(4, data_sets[:1], data_sets[1:])
    classes = find_classes(cfg, str(tmp_path / "config.yaml"))
    assert list(classes.names) == PANOPTIC["stuff_classes"]
    assert classes.ids == (4, 17, 50, 90)
    assert classes.things == {1, 3}
    assert list(classes.colors) == PANOPTIC["stuff_colors"]
    # The model looks its training set up in the catalog.
    register_classes(cfg, classes)
    for name in data_sets:
        assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {17: 1, 90: 3}
    # Without the file, the result is the same.
    assert find_classes(cfg, "elsewhere/config.yaml") == classes


def test_ids_of_stuff_are_known_even_if_listed_separately(data_sets):
    ids = {"stuff_dataset_id_to_contiguous_id": {4: 0, 50: 2}}
    MetadataCatalog.get(data_sets[0]).set(**{**PANOPTIC, **ids})
    assert find_classes(config(4, data_sets), "c.yaml").ids == (4, 17, 50, 90)


@pytest.mark.parametrize(
    "metadata, category_ids, things",
    [
        ({"stuff_classes": ["a", "b"]}, [0, 1], None),
        ({"thing_classes": ["a", "b"]}, [0, 1], {0, 1}),
        (
            {"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": {5: 0, 9: 1}},
            [5, 9],
            {0, 1},
        ),
        # both tasks of Cityscapes under one name
        ({"thing_classes": ["a", "b"], "stuff_classes": ["c", "a", "b"]}, [0, 1], {0, 1}),
        # things numbered among all classes, for a model of things only
        ({**PANOPTIC, "thing_classes": ["a", "b"]}, [0, 1], {0, 1}),
    ],
)
def test_other_tasks(data_sets, metadata, category_ids, things):
    MetadataCatalog.get(data_sets[1]).set(**metadata)
    classes = find_classes(config(2, test=data_sets[1:]), "c.yaml")
    assert classes.names == ("a", "b")
    assert list(classes.ids) == category_ids
    assert classes.things == things
    assert classes.colors is None


def test_classes_of_another_model_are_not_used(data_sets, tmp_path, caplog):
    (tmp_path / "metadata.json").write_text(json.dumps(PANOPTIC))
    cfg = config(3, data_sets)
    assert find_classes(cfg, str(tmp_path / "config.yaml")) is None
    assert "has 4 and 2 classes, the model 3" in caplog.text
    classes = Classes.numbered(3)
    assert classes.names == ("class 0", "class 1", "class 2")
    assert (classes.ids, classes.things) == ((0, 1, 2), None)


def test_registered_classes_are_kept(data_sets, tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps(PANOPTIC))
    MetadataCatalog.get(data_sets[0]).set(thing_classes=["one"])
    cfg = config(4, data_sets)
    register_classes(cfg, find_classes(cfg, str(tmp_path / "config.yaml")))
    assert MetadataCatalog.get(data_sets[0]).thing_classes == ["one"]
    assert MetadataCatalog.get(data_sets[1]).stuff_classes == PANOPTIC["stuff_classes"]
