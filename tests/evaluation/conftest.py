"""Data sets that exist for one test."""

import json

import coco_sets
import panoptic_sets
import pytest
from detectron2.data import MetadataCatalog


@pytest.fixture
def register_coco(tmp_path):
    """Return a function that registers annotations and returns the name of the data set."""
    names = []

    def _register(data: dict, with_ids: bool = True) -> str:
        name = f"test_coco_evaluation_{len(names)}"
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(data))
        to_index = coco_sets.category_indices(data)
        names_by_id = {c["id"]: c["name"] for c in data["categories"]}
        metadata = MetadataCatalog.get(name)
        metadata.set(
            json_file=str(path),
            evaluator_type="coco",
            thing_classes=[names_by_id[c] for c in to_index],
        )
        if with_ids:
            metadata.set(thing_dataset_id_to_contiguous_id=to_index)
        names.append(name)
        return name

    yield _register
    for name in names:
        MetadataCatalog.pop(name)


@pytest.fixture
def register_panoptic():
    """Return a function that registers a data set of `panoptic_sets` and returns its name."""
    names = []

    def _register(folder, content, **kwargs) -> str:
        names.append(f"test_panoptic_evaluation_{len(names)}")
        return panoptic_sets.register(names[-1], folder, content, **kwargs)

    yield _register
    for name in names:
        panoptic_sets.unregister(name)
