import json

import pytest
from detectron2.data import MetadataCatalog

from mask2former.data.metadata import read_metadata, write_metadata
from mask2former.structures import Classes

ALL = ["grass", "cat", "sky", "dog"]
# As in ADE20K, contiguous ids of things have gaps, so they do not index thing_classes.
PANOPTIC = {
    "thing_classes": ["cat", "dog"],
    "stuff_classes": ALL,
    "thing_dataset_id_to_contiguous_id": {17: 1, 90: 3},
    "stuff_dataset_id_to_contiguous_id": {4: 0, 17: 1, 50: 2, 90: 3},
    "stuff_colors": [(0, 255, 0), (1, 2, 3), (9, 9, 255), (7, 8, 9)],
    "ignore_label": 255,
}


@pytest.fixture
def registered():
    name = "test_metadata"
    yield MetadataCatalog.get(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("keys", [list(PANOPTIC), ["thing_classes"], ["stuff_classes"], []])
def test_a_written_file_can_be_read_and_registered(registered, tmp_path, keys):
    known = {key: PANOPTIC[key] for key in keys}
    registered.set(**known, evaluator_type="x", json_file="y")
    path = tmp_path / "metadata.json"
    write_metadata(path, registered.name)
    assert read_metadata(path) == known
    assert [file.name for file in tmp_path.iterdir()] == ["metadata.json"]
    registered.set(**read_metadata(path))  # raises an error if a value changes


def class_names(metadata, count: int) -> list[str] | None:
    classes = Classes.from_metadata(metadata, count)
    return None if classes is None else list(classes.names)


@pytest.mark.parametrize("count, names", [(4, ALL), (2, ["cat", "dog"]), (3, None), (0, None)])
def test_the_names_fit_the_model(registered, count, names):
    registered.set(**PANOPTIC)
    assert class_names(PANOPTIC, count) == names
    assert class_names(registered, count) == names
    assert class_names({"thing_classes": ALL}, count) == (names if count == 4 else None)
    # stuff_classes names all classes, and some of them are things.
    both = {"thing_classes": ALL[::-1], "stuff_classes": ALL}
    assert class_names(both, count) == (ALL if count == 4 else None)


def test_files_of_earlier_versions_name_only_things(tmp_path):
    path = tmp_path / "metadata.json"
    ids = {"3": 0, "8": 1}
    path.write_text(
        json.dumps({"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": ids})
    )
    expected = {"thing_classes": ["a", "b"], "thing_dataset_id_to_contiguous_id": {3: 0, 8: 1}}
    assert read_metadata(path) == expected
    # a data set that did not have ids
    path.write_text('{"thing_classes": null, "thing_dataset_id_to_contiguous_id": null}')
    assert read_metadata(path) == {}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"thing_classes": 3}',
        '{"thing_classes": "cat"}',
        '{"stuff_classes": ["a", 1]}',
        '{"thing_dataset_id_to_contiguous_id": [1]}',
        '{"thing_dataset_id_to_contiguous_id": {"a": 1}}',
        '{"stuff_colors": [[1, 2]]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "metadata.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json is not (as train_net|JSON)"):
        read_metadata(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"metadata\.json"):
        read_metadata(path)


@pytest.mark.parametrize(
    "name, count, num_things",
    [
        ("synthetic_shapes_instance_train", 5, 5),
        ("synthetic_shapes_panoptic_train", 7, 5),
        ("synthetic_shapes_semantic_train", 7, 0),
        ("coco_2017_train", 80, 80),
        ("coco_2017_train_panoptic", 133, 80),
        ("ade20k_sem_seg_train", 150, 0),
        ("ade20k_panoptic_train", 150, 100),
        ("ade20k_instance_train", 100, 100),
        ("cityscapes_fine_panoptic_train", 19, 8),
        ("cityscapes_fine_sem_seg_train", 19, 0),
        ("cityscapes_fine_instance_seg_train", 8, 0),  # Detectron2 registers no ids
        ("mapillary_vistas_panoptic_train", 65, 37),
    ],
)
def test_registered_data_sets(tmp_path, name, count, num_things):
    path = tmp_path / "metadata.json"
    write_metadata(path, name)
    metadata = read_metadata(path)
    names = class_names(metadata, count)
    assert names is not None and len(set(names)) == count
    things = metadata.get("thing_dataset_id_to_contiguous_id", {})
    assert len(things) == num_things and max(things.values(), default=0) < count
