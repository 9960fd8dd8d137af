"""Packed masks against the plain tensors that they stand for, Detectron2 and `grid_sample`."""

import pickle
import weakref

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mask2former.structures import PackedMasks

COUNTS = [0, 1, 7, 8, 9, 21]
SIZE = (13, 10)


def random_masks(count, size=SIZE, seed=0):
    """Blobs, some of which are empty or touch a border."""
    generator = torch.Generator().manual_seed(seed)
    masks = (
        torch.rand(count, *size, generator=generator)
        < torch.rand(count, 1, 1, generator=generator) * 0.3
    )
    masks[::5] = False
    return masks


@pytest.fixture(params=COUNTS)
def masks(request):
    return random_masks(request.param)


def test_planes_are_the_bits_that_numpy_packs(masks):
    packed = PackedMasks.from_tensor(masks)
    wanted = np.packbits(masks.numpy(), axis=0, bitorder="little")
    assert packed.planes.numpy().tobytes() == wanted.tobytes()
    assert packed.planes.shape == wanted.shape
    assert len(packed) == len(masks) and packed.image_size == SIZE


def test_union_and_what_is_left_without_some_pixels(masks):
    packed = PackedMasks.from_tensor(masks)
    assert torch.equal(packed.union(), masks.any(0))
    gone = random_masks(2, seed=9)[1]
    padded = packed.pad(20, 15)
    assert torch.equal(packed.without(gone).tensor, masks & ~gone)
    assert torch.equal(padded.union(), F.pad(masks.any(0), (0, 5, 0, 7)))
    assert torch.equal(padded.without(padded.union()).tensor, torch.zeros_like(padded.tensor))
    assert torch.equal(packed.tensor, masks)  # unchanged


def test_every_way_of_packing_gives_the_masks(masks):
    arrays = list(masks.numpy())
    assert torch.equal(PackedMasks.from_masks(arrays, SIZE).tensor, masks)
    numbers = (a.astype(np.int32) * 255 for a in arrays)
    assert torch.equal(PackedMasks.from_masks(numbers, SIZE).tensor, masks)
    for dtype in (torch.bool, torch.uint8, torch.float32):
        assert torch.equal(PackedMasks.from_tensor(masks.to(dtype)).tensor, masks)
    assert torch.equal(PackedMasks.from_tensor(masks.to(torch.uint8) * 255).tensor, masks)
    assert torch.equal(torch.stack([masks[:1].any(0), *PackedMasks.from_tensor(masks)])[1:], masks)


def test_masks_of_ids():
    ids = np.random.default_rng(0).integers(0, 5, SIZE) * 70_000
    wanted = [280_000, 0, 7, 70_000]
    masks = PackedMasks.from_ids(ids, wanted).tensor
    assert torch.equal(masks, torch.from_numpy(np.stack([ids == i for i in wanted])))
    assert not masks[2].any()
    assert PackedMasks.from_ids(ids, []).tensor.shape == (0, *SIZE)


def test_masks_are_consumed_one_at_a_time():
    alive: list[weakref.ref] = []

    def source():
        for _ in range(20):
            assert sum(ref() is not None for ref in alive) <= 1  # the one before
            mask = np.ones(SIZE, dtype=bool)
            alive.append(weakref.ref(mask))
            yield mask

    assert len(PackedMasks.from_masks(source(), SIZE)) == 20


@pytest.mark.parametrize(
    "item",
    [
        slice(2, 17, 3),
        slice(None, None, None),
        [20, 3, 3, 0],
        [],
        5,
        -1,
        torch.tensor([9, 1]),
        torch.arange(21) % 3 == 0,
        torch.zeros(21, dtype=torch.bool),
    ],
    ids=str,
)
def test_indexing_is_that_of_tensors(item):
    masks = random_masks(21)
    got = PackedMasks.from_tensor(masks)[item]
    wanted = masks[item] if not isinstance(item, int) else masks[item][None]
    assert len(got) == len(wanted) and len(got.planes) == -(-len(wanted) // 8)
    assert torch.equal(got.tensor, wanted)


def test_a_wrong_index_is_an_error():
    packed = PackedMasks.from_tensor(random_masks(9))
    for item in (9, [0, 9], torch.tensor([12]), torch.ones(8, dtype=torch.bool)):
        with pytest.raises(IndexError):
            packed[item]


def test_padding_copies_nothing_and_holds_no_mask(masks):
    packed = PackedMasks.from_tensor(masks)
    padded = packed.pad(16, 30)
    assert padded.planes is packed.planes and padded.image_size == (16, 30)
    assert torch.equal(padded.tensor, F.pad(masks, (0, 20, 0, 3)))
    assert torch.equal(padded[:3].tensor, F.pad(masks[:3], (0, 20, 0, 3)))
    assert torch.equal(padded.any(), masks.flatten(1).any(1))
    with pytest.raises(ValueError, match=r"cannot pad masks of \(16, 30\) to \(16, 29\)"):
        padded.pad(16, 29)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 1), SIZE, (16, 32), (31, 33)])
def test_boxes_and_emptiness(size):
    masks = random_masks(21, size)
    packed = PackedMasks.from_tensor(masks)
    assert torch.equal(packed.any(), masks.flatten(1).any(1))
    wanted = BitMasks(masks).get_bounding_boxes().tensor
    assert torch.equal(packed.get_bounding_boxes().tensor, wanted)
    assert torch.equal(packed.pad(40, 40).get_bounding_boxes().tensor, wanted)


def grid_sample(masks, points):
    """(N, H, W), (N, P, 2) to (N, P)."""
    grid = (2 * points - 1)[:, :, None]
    return F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0, :, 0]


@pytest.mark.parametrize("pad", [(0, 0), (3, 20)])
@pytest.mark.parametrize("size", [SIZE, (1, 7), (64, 48)])
@pytest.mark.parametrize("count", COUNTS[1:])
def test_samples_are_those_of_grid_sample(count, size, pad):
    torch.manual_seed(0)
    masks = random_masks(count, size)
    packed = PackedMasks.from_tensor(masks).pad(size[0] + pad[0], size[1] + pad[1])
    points = torch.rand(count, 200, 2)
    points[:, :4] = torch.tensor([[0.0, 0], [1, 1], [0, 1], [1, 0]])  # half a pixel outside
    full = packed.tensor
    wanted = grid_sample(full, points)
    assert count < 8 or (wanted > 0).any()
    close = {"rtol": 0, "atol": 1e-7 * max(packed.image_size)}  # rounding of a coordinate
    torch.testing.assert_close(packed.sample(points), wanted, **close)
    shared = points[0]
    wanted = grid_sample(full, shared.expand(count, -1, -1))
    torch.testing.assert_close(packed.sample(shared), wanted, **close)
    of = torch.randint(count, (12,))
    points = torch.rand(12, 50, 2)
    torch.testing.assert_close(packed.sample(points, of), grid_sample(full[of], points), **close)
    torch.testing.assert_close(packed.sample(shared, of), wanted[of], **close)


def test_samples_of_nothing():
    packed = PackedMasks.from_tensor(random_masks(0))
    assert packed.sample(torch.rand(5, 2)).shape == (0, 5)
    assert packed.sample(torch.rand(0, 5, 2)).shape == (0, 5)
    packed = PackedMasks.from_tensor(random_masks(9))
    none = torch.zeros(0, dtype=torch.long)
    assert packed.sample(torch.rand(0, 5, 2), none).shape == (0, 5)


def test_joining_is_that_of_tensors():
    tensors = [random_masks(n, seed=n) for n in (3, 0, 8, 6)]
    parts = [PackedMasks.from_tensor(t).pad(20, 20) for t in tensors]
    parts.append(PackedMasks.from_tensor(random_masks(2, (20, 12), seed=5)).pad(20, 20))
    joined = PackedMasks.cat(parts)
    assert torch.equal(joined.tensor, torch.cat([p.tensor for p in parts]))
    assert len(joined.planes) == 3
    with pytest.raises(ValueError, match="different sizes"):
        PackedMasks.cat([parts[0], parts[0].pad(20, 21)])


def test_a_field_of_detectron2s_instances():
    masks = random_masks(11)
    instances = Instances(SIZE, gt_classes=torch.arange(11))
    instances.gt_masks = PackedMasks.from_tensor(masks)
    keep = instances.gt_classes % 2 == 0
    assert torch.equal(instances[keep].gt_masks.tensor, masks[keep])
    assert torch.equal(instances[3].gt_masks.tensor, masks[3:4])
    joined = Instances.cat([instances, instances[keep]])
    assert torch.equal(joined.gt_masks.tensor, torch.cat((masks, masks[keep])))
    moved = instances.to("cpu")
    assert len(moved) == 11 and torch.equal(moved.gt_masks.tensor, masks)


class Samples:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        instances = Instances(SIZE)
        instances.gt_masks = PackedMasks.from_tensor(random_masks(9, seed=index)).pad(20, 20)
        return instances


def test_they_travel_from_the_workers_of_a_loader_and_through_pickle():
    for i, (got,) in enumerate(DataLoader(Samples(), num_workers=2, collate_fn=list)):
        assert torch.equal(got.gt_masks.tensor, Samples()[i].gt_masks.tensor)
    packed = Samples()[0].gt_masks
    copy = pickle.loads(pickle.dumps(packed))
    assert torch.equal(copy.tensor, packed.tensor) and copy.image_size == (20, 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    masks = random_masks(21)
    packed = PackedMasks.from_tensor(masks).pin_memory()
    assert packed.planes.is_pinned()
    there = packed.to("cuda", non_blocking=True)
    points = torch.rand(21, 50, 2)
    of = torch.tensor([4, 20])
    assert torch.equal(there.tensor.cpu(), masks)
    assert torch.equal(PackedMasks.from_tensor(masks.cuda()).tensor.cpu(), masks)
    assert torch.equal(there.any().cpu(), packed.any())
    boxes = there.get_bounding_boxes().tensor
    assert torch.equal(boxes.cpu(), packed.get_bounding_boxes().tensor)
    assert torch.equal(there[of].tensor.cpu(), masks[of])
    close = {"rtol": 0, "atol": 1e-6}
    got = there.sample(points.cuda())
    torch.testing.assert_close(got.cpu(), packed.sample(points), **close)
    got = there.sample(points[:2].cuda(), of)
    torch.testing.assert_close(got.cpu(), packed.sample(points[:2], of), **close)


def test_a_smaller_mask_is_the_upper_left_corner_of_one():
    generator = np.random.default_rng(0)
    full = np.zeros((11, 9, 7), dtype=bool)
    parts = []
    for i, mask in enumerate(full):
        part = generator.random((1 + i % 9, 1 + i % 7)) < 0.5
        mask[: part.shape[0], : part.shape[1]] = part
        parts.append(np.asfortranarray(part) if i % 3 else part)
    packed = PackedMasks.from_masks(iter(parts), (9, 7))
    assert np.array_equal(packed.tensor.numpy(), full)


def test_mistakes_are_named():
    planes = torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"planes of 17 masks must be uint8 \(3, H, W\)"):
        PackedMasks(planes, 17)
    with pytest.raises(ValueError, match="smaller"):
        PackedMasks(planes, 16, (4, 3))
    with pytest.raises(ValueError, match=r"mask 1 has the shape \(4, 5\), more than \(4, 4\)"):
        PackedMasks.from_masks([np.zeros((4, 4)), np.zeros((4, 5))], (4, 4))
    with pytest.raises(ValueError, match="fractions"):
        PackedMasks.from_tensor(torch.full((1, 4, 4), 0.5))
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        PackedMasks.from_tensor(torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="type"):
        PackedMasks(planes, 16).to(torch.float32)
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        PackedMasks.from_ids(np.zeros((3, 4, 4), dtype=int), [1])
