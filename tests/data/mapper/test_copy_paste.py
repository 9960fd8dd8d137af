"""Copy-paste: each target is where its colour shows, nothing overlaps what was pasted."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from mask2former.data import build_train_loader
from mask2former.data.mapper.copy_paste import CopyPaste, paste_objects
from mask2former.structures import PackedMasks

SIZE = (48, 64)
FILL = 128


def make_sample(
    seed: int, *, offset: int, padding: int = 0, ignored: bool = True, radius: float = 6
) -> dict:
    """Ellipses that do not overlap, each in a colour of its own, and padding on the right."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    y, x = np.mgrid[:height, :width]
    owner = np.zeros(SIZE, int)
    for number in range(1, 7):
        center, radii = rng.uniform((0, 0), (height, width - padding)), rng.uniform(1, radius, 2)
        inside = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 < 1
        owner[inside & (owner == 0)] = number
    owner[:, width - padding :] = 0
    numbers = [n for n in range(1, 7) if (owner == n).any()]
    image = np.full((3, *SIZE), 10 + offset, np.uint8)
    for number in numbers:
        image[:, owner == number] = np.array([offset + number, 3 * number, 200 - number])[:, None]
    image[:, :, width - padding :] = FILL
    instances = Instances(SIZE)
    instances.gt_masks = PackedMasks.from_ids(owner, numbers)
    instances.gt_classes = torch.tensor([offset + n for n in numbers])
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
    padded = np.zeros(SIZE, bool)
    padded[:, width - padding :] = padding > 0
    sample = {"image": torch.from_numpy(image), "instances": instances}
    sample["padding_mask"] = torch.from_numpy(padded)
    if ignored:
        sample["ignored_mask"] = torch.from_numpy((owner == 0) & (y < 10) & ~padded)
    return sample


def pasted(seed: int, padding: int = 0, **options) -> tuple[dict, dict, dict]:
    """A sample before and after, and the other one; classes of the other one are from 100."""
    before, sample = (make_sample(seed, offset=0, padding=padding, **options) for _ in range(2))
    other = make_sample(1000 + seed, offset=100, radius=20)
    paste_objects(sample, other, np.random.default_rng(seed))
    return before, sample, other


@pytest.mark.parametrize("padding", [0, 20])
def test_masks_are_where_their_colours_show(padding):
    """The oracle is the picture: what is drawn last is seen."""
    new = dropped = 0
    for seed in range(40):
        before, sample, other = pasted(seed, padding)
        image, targets = sample["image"].numpy(), sample["instances"]
        masks, classes = targets.gt_masks.tensor.numpy(), targets.gt_classes.tolist()
        assert len(set(classes)) == len(classes)
        for mask, category in zip(masks, classes, strict=True):
            number = category % 100
            color = np.array([category, 3 * number, 200 - number])[:, None, None]
            np.testing.assert_array_equal(mask, (image == color).all(0))
        assert masks.sum(0).max(initial=0) <= 1
        # Boxes are tight around the masks.
        for mask, box in zip(masks, targets.gt_boxes.tensor.tolist(), strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        # Areas add up: what an object lost is what was pasted on it.
        changed = (before["image"].numpy() != image).any(0)
        theirs = image[0] > 100
        theirs &= (image != FILL).any(0) & (image != 110).any(0)
        np.testing.assert_array_equal(changed, theirs)
        areas = {c: int(m.sum()) for m, c in zip(masks, classes, strict=True)}
        for mask, category in zip(
            before["instances"].gt_masks.tensor.numpy(),
            before["instances"].gt_classes.tolist(),
            strict=True,
        ):
            left = int((mask & ~changed).sum())
            if left >= 0.1 * mask.sum() and left:
                assert areas[category] == left
            else:
                assert category not in areas
                dropped += 1
        for category in set(classes) - set(before["instances"].gt_classes.tolist()):
            original = other["instances"].gt_masks.tensor[
                other["instances"].gt_classes.tolist().index(category)
            ]
            assert 0 < areas[category] <= int(original.sum())
            new += 1
        # Nothing lies on padding.
        assert not changed[sample["padding_mask"].numpy()].any()
        assert not masks[:, sample["padding_mask"].numpy()].any()
    assert new > 20 and dropped > 0


def test_what_is_left_of_hidden_objects_has_no_label():
    found = 0
    for seed in range(40):
        before, sample, _ = pasted(seed)
        changed = (before["image"] != sample["image"]).any(0)
        union = sample["instances"].gt_masks.union()
        remains = before["instances"].gt_masks.union() & ~changed & ~union
        ignored = sample["ignored_mask"]
        assert ignored[remains].all() and not (ignored & union).any()
        assert torch.equal(ignored & ~changed & ~remains, before["ignored_mask"] & ~changed)
        found += bool(remains.any())
    assert found
    assert "ignored_mask" not in pasted(0, ignored=False)[1]


def test_objects_that_their_crop_cuts_off_stay_there():
    sample, other = make_sample(0, offset=0), make_sample(3, offset=100)
    at_border = {
        c
        for c, box in zip(
            other["instances"].gt_classes.tolist(),
            other["instances"].gt_boxes.tensor.tolist(),
            strict=True,
        )
        if box[0] == 0 or box[1] == 0 or box[2] == SIZE[1] or box[3] == SIZE[0]
    }
    seen = set()
    for seed in range(30):
        sample = make_sample(0, offset=0)
        paste_objects(sample, other, np.random.default_rng(seed))
        seen |= set(sample["instances"].gt_classes.tolist())
    theirs = set(other["instances"].gt_classes.tolist())
    assert at_border and seen & theirs == theirs - at_border


def test_images_are_chosen_by_their_shares():
    chosen = []
    paste = CopyPaste(0.6, np.array([1.0, 0.0, 3.0]))
    np.random.seed(0)  # noqa: NPY002
    for _ in range(2000):
        paste({}, chosen.append)
    assert len(chosen) == pytest.approx(1200, abs=100)
    counts = np.bincount(chosen, minlength=3) / len(chosen)
    np.testing.assert_allclose(counts, [0.25, 0, 0.75], atol=0.05)


def stream(cfg, start=0, count=6):
    cfg.SOLVER.IMS_PER_BATCH = 1
    return [batch[0] for batch in islice(build_train_loader(cfg, seed=3, start_iter=start), count)]


def test_the_stream_resumes_and_is_that_without_pasting_below(tiny_cfg):
    tiny_cfg.DATALOADER.NUM_WORKERS = 0
    plain = stream(tiny_cfg)
    tiny_cfg.INPUT.COPY_PASTE = 1.0
    whole, resumed = stream(tiny_cfg), stream(tiny_cfg, start=2, count=4)
    changes = 0
    for one, other in zip(whole[2:], resumed, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)
    for one, before in zip(whole, plain, strict=True):
        assert one["file_name"] == before["file_name"]
        changed = (one["image"] != before["image"]).any(0)
        changes += int(changed.sum())
        # What is below is cut, and never moved or added to.
        union = before["instances"].gt_masks.union()
        assert not (one["instances"].gt_masks.union() & ~union & ~changed).any()
    assert changes > 0


def test_other_targets_are_refused(tiny_cfg):
    tiny_cfg.INPUT.COPY_PASTE = 0.5
    tiny_cfg.INPUT.DATASET_MAPPER_NAME = "coco_panoptic_lsj"
    tiny_cfg.DATASETS.TRAIN = ("synthetic_shapes_panoptic_train",)
    with pytest.raises(ValueError, match=r"INPUT\.COPY_PASTE is for instances"):
        build_train_loader(tiny_cfg, seed=0)
