import json
from itertools import islice

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from mapper_cases import make_cfg
from sound_files import instance_content
from torch.utils.data import ConcatDataset, Dataset

from mask2former.data import DatasetError, build_train_loader
from mask2former.data.training_set import load_training_set


@pytest.fixture
def register():
    """Register dataset dicts with metadata under a name, until the end of the test."""
    names = []

    def add(name, records, **metadata):
        names.append(f"test_training_set_{name}")
        DatasetCatalog.register(names[-1], lambda: records)
        MetadataCatalog.get(names[-1]).set(**metadata)
        return names[-1]

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def instances(*crowds):
    return {"file_name": "i.jpg", "annotations": [{"iscrowd": c, "category_id": 0} for c in crowds]}


def segments(*crowds):
    info = [{"id": i, "iscrowd": crowd, "category_id": 0} for i, crowd in enumerate(crowds, 1)]
    return {"file_name": "p.jpg", "pan_seg_file_name": "p.png", "segments_info": info}


SEMANTIC = {"file_name": "s.jpg", "sem_seg_file_name": "s.png"}


@pytest.mark.parametrize("filter_empty", [True, False])
def test_images_without_targets_are_left_out_on_request(register, filter_empty):
    cases = {
        "instance": [instances(0), instances(), instances(1, 1), instances(1, 0)],
        "panoptic": [segments(0, 0), segments(), segments(1), segments(0, 1)],
        "semantic": [SEMANTIC, SEMANTIC, SEMANTIC, SEMANTIC],
    }
    for targets, records in cases.items():
        name = register(targets, records)
        kept = load_training_set([name], targets, filter_empty=filter_empty)
        if filter_empty and targets != "semantic":
            assert kept == [records[0], records[3]]
        else:
            assert kept == records
        only_empty = register(f"{targets}_empty", records[1:3])
        if filter_empty and targets != "semantic":
            with pytest.raises(DatasetError, match="FILTER_EMPTY_ANNOTATIONS False"):
                load_training_set([only_empty], targets, filter_empty=True)
            continue
        joined = load_training_set([name, only_empty], targets, filter_empty=filter_empty)
        assert joined == records + records[1:3]


def test_only_what_the_mapper_reads_counts(register):
    # A data set with all kinds of ground truth, like Detectron2's "separated" sets of COCO.
    both = [{**instances(), **segments(0), **SEMANTIC}, {**instances(0), **segments(), **SEMANTIC}]
    name = register("both", both)
    for targets, expected in (("instance", both[1:]), ("panoptic", both[:1]), ("semantic", both)):
        assert load_training_set([name], targets, filter_empty=True) == expected
    # For a custom mapper, only annotations count, as in Detectron2.
    assert load_training_set([name], None, filter_empty=True) == both[1:]
    mixed = register("mixed", [SEMANTIC, instances()])
    assert load_training_set([mixed], None, filter_empty=True) == [SEMANTIC]


def test_the_mappers_that_fit_are_named(register):
    name = register("panoptic", [segments(0), {**segments(0), "sem_seg_file_name": "x.png"}])
    with pytest.raises(
        DatasetError,
        match=r"2 of 2 images have no 'annotations', such as p\.jpg\. Mappers that fit this data "
        "set: coco_panoptic_lsj, mask_former_panoptic",
    ):
        load_training_set([name], "instance", filter_empty=True)
    with pytest.raises(DatasetError, match="1 of 2 images have no 'sem_seg_file_name'"):
        load_training_set([name], "semantic", filter_empty=True)
    test_set = register("test", [{"file_name": "t.jpg"}])
    with pytest.raises(DatasetError, match=r"such as t\.jpg\. Is it a test set\?"):
        load_training_set([test_set], "panoptic", filter_empty=True)


def test_names_and_empty_sets(register):
    name = register("semantic_train", [SEMANTIC])
    with pytest.raises(ValueError, match=f"not registered. Did you mean '{name}'"):
        load_training_set([name.replace("train", "tain")], "semantic", filter_empty=True)
    with pytest.raises(ValueError, match=r"'qqqqqqqqq', which is not registered\. A data set of"):
        load_training_set(["qqqqqqqqq"], "semantic", filter_empty=True)
    nothing = register("nothing", [])
    with pytest.raises(DatasetError, match="test_training_set_nothing' is empty"):
        load_training_set([name, nothing], "semantic", filter_empty=True)


def test_classes_must_agree(register):
    names = ["cat", "dog", "sky"]
    things = {"thing_dataset_id_to_contiguous_id": {7: 0, 9: 1}}
    other_ids = {"thing_dataset_id_to_contiguous_id": {1: 0, 2: 1}}
    fewer = {"thing_dataset_id_to_contiguous_id": {7: 0}}
    one = register("one", [segments(0)], stuff_classes=names, **things)
    same = register("same", [segments(0)], stuff_classes=tuple(names), **other_ids)
    unknown = register("unknown", [segments(0)])
    records = load_training_set([one, unknown, same], "panoptic", filter_empty=True)
    assert len(records) == 3
    swapped = register("swapped", [segments(0)], stuff_classes=["cat", "sky", "dog"], **things)
    with pytest.raises(DatasetError, match=r"_one' and .*_swapped'.*class 1 is 'dog' and 'sky'"):
        load_training_set([one, unknown, swapped], "panoptic", filter_empty=True)
    longer = register("longer", [segments(0)], stuff_classes=[*names, "sea"], **things)
    with pytest.raises(DatasetError, match=r"there are 3 and 4"):
        load_training_set([one, longer], "panoptic", filter_empty=True)
    stuff = register("stuff", [segments(0)], stuff_classes=names, **fewer)
    with pytest.raises(DatasetError, match="different classes are things"):
        load_training_set([one, stuff], "panoptic", filter_empty=True)
    # For instances, only the classes of things count.
    first = register("first", [instances(0)], thing_classes=["cat"], stuff_classes=["sky"])
    second = register("second", [instances(0)], thing_classes=["cat"], stuff_classes=["sea"])
    assert len(load_training_set([first, second], "instance", filter_empty=True)) == 2
    third = register("third", [instances(0)], thing_classes=["dog"])
    with pytest.raises(DatasetError, match="class 0 is 'cat' and 'dog'"):
        load_training_set([first, third], "instance", filter_empty=True)


class Records(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"file_name": f"{index}.jpg"}


def test_map_style_data_sets_are_not_converted(register):
    dataset = Records()
    name = register("map", dataset)
    assert load_training_set([name], "panoptic", filter_empty=True) is dataset
    lists = register("list", [SEMANTIC])
    joined = load_training_set([name, lists], "semantic", filter_empty=True)
    assert isinstance(joined, ConcatDataset) and joined[2] == SEMANTIC and joined[1] == dataset[1]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_every_task_resumes_with_the_same_samples(shapes, task):
    cfg = make_cfg(f"mask_former_{task}", sets=(f"synthetic_shapes_{task}_train",), classes=7)
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = 2, 0

    def batches(start, count):
        return list(islice(iter(build_train_loader(cfg, seed=3, start_iter=start)), count))

    whole = batches(0, 8)
    cfg.DATALOADER.NUM_WORKERS = 2
    for batch, resumed in zip(whole[5:], batches(5, 3), strict=True):
        for sample, other in zip(batch, resumed, strict=True):
            assert sample["image_id"] == other["image_id"]
            for key in ("image", "sem_seg", "padding_mask"):
                assert torch.equal(sample[key], other[key])
            first, second = sample["instances"], other["instances"]
            assert torch.equal(first.gt_masks.tensor, second.gt_masks.tensor)
            assert torch.equal(first.gt_classes, second.gt_classes)
    assert len({sample["image_id"] for batch in whole for sample in batch}) == 12


def test_files_that_detectron2_would_load_are_checked(tmp_path):
    """Its loader gives wrong run lengths to pycocotools."""
    name, path = "test_training_set_theirs", tmp_path / "instances.json"
    content = instance_content()
    path.write_text(json.dumps(content))
    register_coco_instances(name, {}, str(path), str(tmp_path))
    try:
        records = load_training_set([name], "instance", filter_empty=True)
        assert [record["image_id"] for record in records] == [1, 2]
        content["annotations"][2]["segmentation"]["counts"] = [2**62, 2**62, 1200]
        path.write_text(json.dumps(content))
        with pytest.raises(
            DatasetError, match=r"instances\.json: annotation id 3 of image id 2: RLE"
        ):
            load_training_set([name], "instance", filter_empty=True)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
