"""The mapper on panoptic PNG files and semantic label maps."""

# ruff: noqa: NPY002  Detectron2 draws from NumPy's global generator.
import copy
import json
import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from label_files import id_colors, save
from mapper_cases import HEIGHT, NAMES, make_cfg, run
from PIL import Image

from mask2former.data import MAPPER_PRESETS, DatasetError, build_mapper
from mask2former.data.datasets.coco_panoptic import load_coco_panoptic
from mask2former.structures import Classes

SEEDS = range(6)


def replay(mapper, record, seed):
    """What Detectron2 alone makes of image, segment colours and labels, and the padding."""
    labels = read_image(record["sem_seg_file_name"], "L")[..., 0]
    augmented = T.AugInput(read_image(record["file_name"], "RGB"), sem_seg=labels)
    np.random.seed(seed)
    transforms = mapper.augmentations(augmented)
    colors = read_image(record["pan_seg_file_name"], "RGB")
    padding = transforms.apply_segmentation(np.zeros(labels.shape, dtype=np.uint8)) == 255
    return augmented.image, transforms.apply_segmentation(colors), augmented.sem_seg, padding


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_targets_equal_a_loop_over_the_pixels(record, name, seed):
    mapper = build_mapper(make_cfg(name))
    result = run(mapper, record, seed)
    image, colors, labels, padding = replay(mapper, record, seed)
    assert torch.equal(result["image"].permute(1, 2, 0), torch.from_numpy(image.copy()))
    assert (result["padding_mask"].numpy() == padding).all()

    crowd = {segment["id"] for segment in record["segments_info"] if segment["iscrowd"]}
    classes = {segment["id"]: segment["category_id"] for segment in record["segments_info"]}
    expected: dict[int, set[tuple[int, int]]] = {}
    for y, x in np.ndindex(padding.shape):
        red, green, blue = colors[y, x].tolist()
        if name == "mask_former_semantic":
            target = int(labels[y, x])
            counts = target != 255
        else:
            target = red + 256 * green + 65536 * blue
            counts = target in classes and target not in crowd
        if counts and not padding[y, x]:
            expected.setdefault(target, set()).add((y, x))
        sem_seg = 255 if padding[y, x] else labels[y, x]
        assert result["sem_seg"][y, x] == sem_seg

    instances = result["instances"]
    assert instances.image_size == padding.shape and not instances.has("gt_boxes")
    assert instances.gt_classes.dtype == result["sem_seg"].dtype == torch.int64
    masks = [set(map(tuple, mask.nonzero().tolist())) for mask in instances.gt_masks.tensor]
    if name == "mask_former_semantic":
        order = sorted(expected)
        assert instances.gt_classes.tolist() == order
    else:
        order = [i for i in classes if i in expected]
        assert instances.gt_classes.tolist() == [classes[i] for i in order]
    assert masks == [expected[target] for target in order]
    assert expected


def test_there_are_crops_without_some_segments_and_padding_of_every_preset(record):
    for name in NAMES:
        mapper = build_mapper(make_cfg(name))
        results = [run(mapper, record, seed) for seed in range(20)]
        assert len({len(result["instances"]) for result in results}) > 1
        assert any(result["padding_mask"].any() for result in results)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES[:2])
def test_masks_move_with_the_image(record, tmp_path, name, seed):
    """The picture of the segments itself is the image: its colours tell where each one is."""
    overrides = ["INPUT.COLOR_AUG_SSD", False, "INPUT.MIN_SCALE", 0.5]
    painted = {**record, "file_name": record["pan_seg_file_name"]}
    result = run(build_mapper(make_cfg(name, *overrides)), painted, seed)
    ids = sum(channel.long() << 8 * i for i, channel in enumerate(result["image"]))
    masks = result["instances"].gt_masks.tensor
    listed = [s for s in record["segments_info"] if not s["iscrowd"] and (ids == s["id"]).any()]
    seen = 0
    for segment in listed:
        pure = (ids == segment["id"]) & ~result["padding_mask"]
        owners = masks[:, pure]
        if pure.sum() < 20:  # colours mixed by the resizing may be equal by chance
            continue
        seen += 1
        [owner] = owners.float().mean(1).gt(0.99).nonzero(as_tuple=True)[0].tolist()
        assert result["instances"].gt_classes[owner] == segment["category_id"]
        # All of the segment but its border is pure.
        assert pure.sum() > 0.2 * masks[owner].sum()
        assert (result["sem_seg"][pure] == segment["category_id"]).float().mean() > 0.99
    assert seen >= 2


def test_segments_alone_give_the_same_crops_as_with_labels(record):
    # The constraint on classes then follows the labels that the segments have.
    without = {k: v for k, v in record.items() if k != "sem_seg_file_name"}
    cfg = make_cfg("mask_former_panoptic", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.4)
    mapper = build_mapper(cfg)
    free = build_mapper(
        make_cfg("mask_former_panoptic", "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0)
    )
    changed = 0
    for seed in range(20):
        one, other = run(mapper, record, seed), run(mapper, without, seed)
        assert "sem_seg" not in other
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)
        changed += not torch.equal(run(free, record, seed)["image"], one["image"])
    assert changed, "the constraint must have had something to do"


def by_class(result, label):
    instances = result["instances"]
    return instances.gt_masks.tensor[instances.gt_classes == label]


@pytest.mark.parametrize("crop", [0.7, 1.0])
def test_three_kinds_of_ground_truth_of_a_scene_agree(shapes, crop):
    mappers, records = {}, {}
    for task in ("instance", "panoptic", "semantic"):
        # Instances know no labels, so the crop must not depend on them.
        overrides = ["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", crop]
        if task == "instance":
            overrides = ["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 1.0]
        sets = (f"synthetic_shapes_{task}_train",)
        overrides += ["INPUT.CROP.SIZE", [56, 48]]
        cfg = make_cfg(f"mask_former_{task}", *overrides, sets=sets, classes=7)
        mappers[task] = build_mapper(cfg)
        records[task] = sorted(DatasetCatalog.get(sets[0]), key=lambda r: r["file_name"])
    things = 0
    for seed, scene in enumerate(zip(*records.values(), strict=True)):
        results = {
            task: run(mapper, record, seed)
            for (task, mapper), record in zip(mappers.items(), scene, strict=True)
        }
        panoptic, semantic = results["panoptic"], results["semantic"]
        assert torch.equal(panoptic["image"], semantic["image"])
        assert torch.equal(panoptic["sem_seg"], semantic["sem_seg"])
        for label in range(7):
            together = by_class(panoptic, label).any(0)
            assert torch.equal(together, semantic["sem_seg"] == label)
            assert torch.equal(together, by_class(semantic, label).any(0))
        if crop < 1:
            continue
        assert torch.equal(panoptic["image"], results["instance"]["image"])
        for label in range(5):
            masks, others = by_class(panoptic, label), by_class(results["instance"], label)
            for mask in masks[masks.sum((1, 2)) > 30]:
                # A polygon and the pixels of its shape may differ along the outline.
                least = min((other ^ mask).sum() for other in others)
                assert least <= 3 * mask.sum().sqrt() + 4
                things += 1
    assert things > 10 or crop < 1


def test_many_segments_and_no_segment(record, tmp_path):
    ids = np.arange(1, 1 + 36 * 10).reshape(36, 10).repeat(2, 0).repeat(2, 1)
    image = save(tmp_path / "image.png", np.zeros((72, 20, 3), dtype=np.uint8))
    many = {
        "file_name": image,
        "pan_seg_file_name": save(tmp_path / "many.png", id_colors(1000 * ids)),
        "segments_info": [{"id": 1000 * i, "category_id": i % 20} for i in range(1, 361)],
    }
    overrides = ["INPUT.RANDOM_FLIP", "none", "INPUT.IMAGE_SIZE", 80]
    scale = ["INPUT.MIN_SCALE", 0.9, "INPUT.MAX_SCALE", 0.9]  # 72 of 80
    mapper = build_mapper(make_cfg("coco_panoptic_lsj", *overrides, *scale))
    instances = run(mapper, many, 0)["instances"]
    assert instances.gt_classes.tolist() == [i % 20 for i in range(1, 361)]
    for i, mask in enumerate(instances.gt_masks.tensor, start=1):
        assert np.array_equal(mask[:72, :20].numpy(), ids == i) and mask.sum() == 4

    nothing = run(mapper, {**many, "segments_info": []}, 0)["instances"]
    assert nothing.gt_masks.tensor.shape == (0, 80, 80)
    assert nothing.gt_classes.shape == (0,)
    void = {**many, "sem_seg_file_name": save(tmp_path / "v.png", np.full((72, 20), 255, np.uint8))}
    result = run(build_mapper(make_cfg("mask_former_semantic")), void, 0)
    assert len(result["instances"]) == 0 and (result["sem_seg"] == 255).all()


@pytest.mark.parametrize("name", NAMES)
def test_inference_reads_no_ground_truth(record, name):
    absent = {**record, "sem_seg_file_name": "/nowhere.png", "pan_seg_file_name": "/nowhere.png"}
    result = build_mapper(make_cfg(name), is_train=False)(absent)
    assert set(result) == {*record, "image"} - {"sem_seg_file_name"}


def test_the_dataset_dict_is_not_modified_and_large_fields_are_dropped(record):
    before = copy.deepcopy(record)
    result = run(build_mapper(make_cfg("mask_former_panoptic")), record, 0)
    assert record == before
    kept = {"file_name", "image_id", "height", "width"}
    assert set(result) == kept | {"image", "padding_mask", "sem_seg", "instances"}


def test_300_instances_do_not_become_300_full_masks(tmp_path):
    size = 512
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, size - 60, (300, 2))
    annotations = [
        {"category_id": 0, "segmentation": [[x, y, x + 50, y, x + 50, y + 50, x, y + 50]]}
        for x, y in corners
    ]
    ids = 1 + np.arange(300).reshape(15, 20).repeat(34, 0).repeat(25, 1)
    ids = np.pad(ids, ((0, size - 510), (0, size - 500)))
    record = {
        "file_name": save(tmp_path / "image.png", np.zeros((size, size, 3), dtype=np.uint8)),
        "annotations": annotations,
        "pan_seg_file_name": save(tmp_path / "ids.png", id_colors(ids)),
        "segments_info": [{"id": i, "category_id": 0} for i in range(1, 301)],
    }
    scale = ["INPUT.IMAGE_SIZE", size, "INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0]
    for task in ("instance", "panoptic"):
        mapper = build_mapper(make_cfg(f"coco_{task}_lsj", *scale))
        tracemalloc.start()
        assert len(run(mapper, record, 0)["instances"]) == 300
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        planes, image = 38 * size**2, 3 * size**2
        # For one mask at a time, and for the table of segment ids, of which little is touched.
        assert peak < 2 * planes + 4 * image + 2 * (1 << 24) < 300 * size**2


def test_label_maps_are_of_the_upright_image(record, tmp_path):
    """A photograph that is stored lying on its side is read upright; label maps are as stored."""
    upright = np.array(Image.open(record["pan_seg_file_name"]))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    lying = Image.fromarray(np.rot90(upright).copy())
    lying.save(tmp_path / "turned.png", exif=exif)
    turned = {**record, "file_name": str(tmp_path / "turned.png")}
    overrides = ["INPUT.COLOR_AUG_SSD", False, "INPUT.MIN_SIZE_TRAIN", (HEIGHT,)]
    mapper = build_mapper(make_cfg("mask_former_panoptic", *overrides))
    result = run(mapper, turned, 1)
    ids = sum(channel.long() << 8 * i for i, channel in enumerate(result["image"]))
    for label, mask in zip(
        result["instances"].gt_classes, result["instances"].gt_masks.tensor, strict=True
    ):
        [segment_id] = ids[mask].unique().tolist()
        classes = {s["id"]: s["category_id"] for s in record["segments_info"]}
        assert classes[segment_id] == label
    lying.save(tmp_path / "lying.png")
    with pytest.raises(DatasetError, match="swapped: if the image is turned by its EXIF"):
        run(mapper, {**turned, "pan_seg_file_name": str(tmp_path / "lying.png")}, 0)


def test_every_name_is_a_preset():
    assert set(MAPPER_PRESETS) == {*NAMES, "coco_instance_lsj", "mask_former_instance"}


def shared_panoptic(shared, name):
    if name == "coco":
        root = shared / "data" / "coco_panoptic_sample" / "sample_data"
        paths = ("panoptic_examples.json", "panoptic_examples", "input_images")
    else:
        root = shared / "data" / "food"
        paths = ("annotations/panoptic_val.json", "panoptic_val", "val")
    json_file = root / paths[0]
    categories = json.loads(json_file.read_text())["categories"]
    categories = sorted(categories, key=lambda category: category["id"])
    return load_coco_panoptic(
        str(json_file),
        str(root / paths[1]),
        str(root / paths[2]),
        classes=Classes.from_categories(categories),
    ), categories


@pytest.mark.parametrize("name", ["coco", "food"])
def test_photographs_with_panoptic_ground_truth(shared, name):
    records, categories = shared_panoptic(shared, name)
    overrides = ["INPUT.RANDOM_FLIP", "none", "INPUT.IMAGE_SIZE", 640]
    scale = ["INPUT.MIN_SCALE", 1.0, "INPUT.MAX_SCALE", 1.0]
    cfg = make_cfg("coco_panoptic_lsj", *overrides, *scale, classes=len(categories))
    mapper = build_mapper(cfg)
    for record in records[:4]:
        assert max(record["height"], record["width"]) == 640  # so nothing is resized
        instances = run(mapper, record, 0)["instances"]
        segments = [s for s in record["segments_info"] if not s["iscrowd"]]
        assert instances.gt_classes.tolist() == [s["category_id"] for s in segments]
        # The areas are those that the annotators' tools wrote.
        assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [s["area"] for s in segments]
        for box, segment in zip(
            instances.gt_masks.get_bounding_boxes().tensor.tolist(), segments, strict=True
        ):
            x, y, w, h = segment["bbox"]
            assert box == pytest.approx([x, y, x + w, y + h], abs=1)
