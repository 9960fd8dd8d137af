"""Post-processing against that of `transformers` on the same logits.

Where the rules agree the results must be identical. Each rule that differs has a test of its own,
which starts with the rule and shows what it changes and by how much. Ours are the published
models' rules. Two differences concern all tasks: `transformers` resizes the logits to 384 x 384
first, whatever the size of the network's input, and does not cut the padding off.
"""

from types import SimpleNamespace

import pytest
import torch

from mask2former.modeling.postprocessing import (
    instance_inference,
    panoptic_inference,
    semantic_inference,
)
from mask2former.modeling.query_prediction import QueryPrediction

transformers = pytest.importorskip("transformers")

Q, K = 12, 5
THINGS = {0, 1, 2}
NET = (384, 384)  # the size that transformers resizes to
LARGER = (500, 700)


def given(classes, masks, output=NET, padded=NET, image=None):
    """A prediction, and the size of its result."""
    return QueryPrediction(classes, masks, padded, image or padded), output


def case(seed=0, size=(96, 96)):
    """Classes of distinct scores; round masks that overlap, two of them empty."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    center_y, center_x, radius, slope = torch.rand(4, Q, 1, 1, generator=generator)
    distance = ((y - height * center_y) ** 2 + (x - width * center_x) ** 2).sqrt()
    masks = (0.2 + 0.5 * slope) * (6 + 20 * radius - distance)
    masks = (masks + 0.3 * torch.randn(Q, *size, generator=generator)).clamp(-12, 8)
    masks[[3, 7]] = -2.0
    classes = torch.randn(Q, K + 1, generator=generator)
    for query in range(Q):
        classes[query, query % (K + 1)] += 2 + 3 * query / Q
    return classes, masks


def theirs(task, classes, masks, output=None, **options):
    processor = transformers.Mask2FormerImageProcessor()
    outputs = SimpleNamespace(
        class_queries_logits=classes[None], masks_queries_logits=masks[None].clone()
    )
    function = getattr(processor, f"post_process_{task}_segmentation")
    target_sizes = None if output is None else [output]
    return function(outputs, target_sizes=target_sizes, **options)[0]


# --- Instances ---


def their_instances(classes, masks, output=None, threshold=0.0):
    """(score, label, mask), by descending score."""
    result = theirs(
        "instance", classes, masks, output, threshold=threshold, return_binary_maps=True
    )
    found = zip(result["segments_info"], result["segmentation"].bool(), strict=True)
    return sorted(((s["score"], s["label_id"], mask) for s, mask in found), key=lambda x: -x[0])


def our_instances(classes, masks, output=NET, max_detections=Q, threshold=0.0, things=None):
    """The same without empty masks."""
    result = instance_inference(
        *given(classes, masks, output), max_detections=max_detections, thing_classes=things
    )
    scores, labels = result.scores.tolist(), result.pred_classes.tolist()
    found = zip(scores, labels, result.pred_masks, strict=True)
    kept = [x for x in found if x[2].any() and x[0] >= threshold]
    return sorted(kept, key=lambda x: -x[0])


def assert_same_instances(ours, them):
    assert len(ours) == len(them) > 0
    for a, (their_score, their_label, their_mask) in zip(ours, them, strict=True):
        score, label, mask = a
        assert label == their_label
        assert abs(score - their_score) < 1e-6
        assert torch.equal(mask, their_mask)


def iou(a, b):
    return ((a & b).sum() / (a | b).sum()).item()


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_identical(seed):
    assert_same_instances(our_instances(*case(seed)), their_instances(*case(seed)))


def test_instances_empty_masks_and_low_scores_are_dropped_by_theirs():
    # Theirs: no empty masks, and a threshold on the score. Ours: all, which AP counts.
    ours = instance_inference(*given(*case()), max_detections=Q)
    kept = our_instances(*case(), threshold=0.5)
    assert (len(ours), len(kept)) == (Q, 8)
    assert_same_instances(kept, their_instances(*case(), threshold=0.5))


def test_instances_their_number_is_that_of_queries():
    # Theirs: as many (query, class) pairs as queries. Ours: TEST.DETECTIONS_PER_IMAGE.
    ours = our_instances(*case(), max_detections=30)
    them = their_instances(*case())
    assert len(them) <= Q < len(ours) <= 30
    scores = [score for score, _, _ in ours]
    assert all(min(abs(score - x) for x in scores) < 1e-6 for score, _, _ in them)


def test_instances_ours_come_by_class_score():
    # Theirs: in no order. Ours: by descending class score.
    classes, masks = case()
    ours = instance_inference(*given(classes, masks), max_detections=Q)
    probs = classes.softmax(-1)[:, :-1].flatten().sort(descending=True).indices[:Q] % K
    assert torch.equal(ours.pred_classes, probs)


def test_instances_scores_are_rounded_by_theirs():
    # Theirs: to 6 decimals.
    pairs = zip(our_instances(*case()), their_instances(*case()), strict=True)
    differences = [abs(ours[0] - them[0]) for ours, them in pairs]
    assert 0 < max(differences) < 6e-7


def test_instances_masks_are_resized_after_the_threshold_by_theirs():
    # Theirs: threshold at 384 x 384, then the nearest pixel. Ours: resize the logits bilinearly.
    # And theirs score the mask at 384 x 384, ours at the size of the output.
    ours = our_instances(*case(), LARGER)
    them = their_instances(*case(), LARGER)
    ious = [iou(a[2], b[2]) for a, b in zip(ours, them, strict=True)]
    assert 0.97 < min(ious) < max(ious) < 1
    differences = [abs(a[0] - b[0]) for a, b in zip(ours, them, strict=True)]
    assert 1e-4 < max(differences) < 1e-3


def test_instances_overlaps_are_painted_over_by_theirs():
    # Theirs, if not asked for binary maps: one map, later over earlier. Ours overlap.
    ours = our_instances(*case())
    result = theirs("instance", *case(), threshold=0.0)
    areas = [int((result["segmentation"] == s["id"]).sum()) for s in result["segments_info"]]
    assert sum(areas) == int((result["segmentation"] >= 0).sum())
    assert sum(areas) == int(torch.stack([mask for _, _, mask in ours]).any(0).sum())
    assert sum(int(mask.sum()) for _, _, mask in ours) > 1.15 * sum(areas)


def test_instances_are_of_things_only_in_our_panoptic_models():
    # Theirs: of all classes. Ours: a panoptic model's instances are things, as published.
    ours = our_instances(*case(), things=THINGS)
    them = [x for x in their_instances(*case()) if x[1] in THINGS]
    assert len(them) < len(their_instances(*case()))
    assert_same_instances(ours, them)


# --- All tasks ---


def test_padding_is_kept_by_theirs():
    # Theirs: the padding at the right and bottom is squeezed into the output. Ours: cut off.
    # Here the lower third of the network's input is padding.
    classes, masks = case()
    cut = given(classes, masks, (256, 384), image=(256, 384))
    ours = semantic_inference(*cut, resize_first=False).argmax(0)
    them = theirs("semantic", classes, masks, (256, 384))
    assert (ours == them).float().mean() < 0.6
    # the same logits without those of the padding
    them = theirs("semantic", classes, masks[:, :64], (256, 384))
    assert (ours == them).float().mean() > 0.999


def test_resizing_through_384_costs_theirs_detail():
    # Theirs: logits at 384 x 384 whatever the network's input. Ours: at the size of the input.
    # Here an input of 768 x 1024, which has logits of 192 x 256.
    classes, masks = case(size=(192, 256))
    large = given(classes, masks, (768, 1024), padded=(768, 1024))
    ours = semantic_inference(*large, resize_first=False)
    them = their_scores(classes, masks, (768, 1024))
    assert 0.05 < (ours - them).abs().max() < 0.1
    assert 0.99 < (ours.argmax(0) == them.argmax(0)).float().mean() < 1


# --- Semantic segmentation ---


def their_scores(classes, masks, output=None):
    result = theirs("semantic", classes, masks, output, return_segmentation_scores=True)
    return result.segmentation_scores


@pytest.mark.parametrize("output", [NET, LARGER, (100, 60)])
def test_semantic_scores_are_identical(output):
    ours = semantic_inference(*given(*case(), output), resize_first=False)
    torch.testing.assert_close(ours, their_scores(*case(), output), rtol=0, atol=1e-6)
    assert torch.equal(ours.argmax(0), theirs("semantic", *case(), output))


def test_semantic_masks_of_our_panoptic_models_are_resized_first():
    # Theirs: combine at 384 x 384, resize the scores. Ours: so too if the model does semantic
    # segmentation only; if it has other tasks (or by SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE),
    # resize the logits, then combine.
    ours = semantic_inference(*given(*case(), LARGER), resize_first=True)
    them = their_scores(*case(), LARGER)
    assert 1e-3 < (ours - them).abs().max() < 1e-2
    assert 0.999 < (ours.argmax(0) == them.argmax(0)).float().mean() < 1


# --- Panoptic segmentation ---


def ours_and_theirs(classes, masks, output=NET, threshold=0.5, overlap=0.8):
    """Maps, and (id, class, whether it is a thing) of each segment."""
    ours, segments = panoptic_inference(
        *given(classes, masks, output),
        object_mask_threshold=threshold,
        overlap_threshold=overlap,
        thing_classes=THINGS,
    )
    options = {"threshold": threshold, "overlap_mask_area_threshold": overlap}
    stuff = set(range(K)) - THINGS  # by default theirs merge none
    result = theirs("panoptic", classes, masks, output, label_ids_to_fuse=stuff, **options)
    our_segments = [(s["id"], s["category_id"], s["isthing"]) for s in segments]
    their_segments = [(s["id"], s["label_id"], not s["was_fused"]) for s in result["segments_info"]]
    return ours, our_segments, result["segmentation"], their_segments


def scene(seed=0, certain=True):
    """A background of stuff within whose mask every pixel is; no second mask of a stuff class.

    Args:
        certain: all class scores are 1.
    """
    classes, masks = case(seed)
    masks[0] = 0.5  # wherever no other mask is
    for query, label in enumerate([3, 0, 1, 2, 0, 1, 2, K, 0, 4, 1, 2]):
        classes[query] = -20.0 if certain else 0.0
        classes[query, label] = 20.0 if certain else 3 + 0.1 * query
    return classes, masks


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(3))
def test_segments_are_identical(seed, overlap):
    ours, our_segments, them, their_segments = ours_and_theirs(*scene(seed), overlap=overlap)
    assert torch.equal(ours, them)
    assert our_segments == their_segments
    dropped = 10 - len(our_segments)  # two of the 12 are "no object" or empty
    assert dropped > 0 if overlap == 0.8 else len(our_segments) > 3


def rectangles(*parts, rest=-4.0):
    """A mask logit (384, 384) from (columns, logit) pairs; `rest` in the other columns."""
    mask = torch.full(NET, rest)
    for columns, logit in parts:
        mask[:, columns] = logit
    return mask


def logits(label, score):
    """Of one class with this score, and no other but "no object"."""
    row = torch.full((K + 1,), -torch.inf)
    row[label], row[K] = torch.tensor(score).log(), torch.tensor(1 - score).log()
    return row


def test_panoptic_pixels_outside_the_masks_are_painted_by_theirs():
    # Theirs: a segment is all that its query wins. Ours: what of that is within its mask.
    # Here the first mask's probability is 0.38 in the right half, where the second's is 0.02.
    classes = torch.stack([logits(0, 0.9), logits(1, 0.9)])
    first = rectangles((slice(0, 192), 3.0), rest=-0.5)
    masks = torch.stack([first, rectangles((slice(180, 192), 4.0))])
    ours, our_segments, them, their_segments = ours_and_theirs(classes, masks, overlap=0.5)
    assert our_segments == their_segments == [(1, 0, True), (2, 1, True)]
    outside = torch.arange(384).expand(NET) >= 192
    assert torch.equal(ours != them, outside)  # half of the map
    assert (ours[outside] == 0).all() and (them[outside] == 1).all()


def test_panoptic_a_query_that_wins_only_outside_its_mask_is_a_segment_of_theirs():
    # Ours: at least one pixel must be won within the mask.
    classes = torch.stack([logits(0, 0.9), logits(1, 0.9)])
    masks = torch.stack([rectangles((slice(0, 8), 2.0), rest=-0.5), rectangles((slice(0, 8), 4.0))])
    ours, our_segments, them, their_segments = ours_and_theirs(classes, masks)
    assert our_segments == [(1, 1, True)]
    assert their_segments == [(1, 0, True), (2, 1, True)]
    assert (ours > 0).sum() == 8 * 384 and (them > 0).all()


def test_panoptic_the_area_of_a_mask_is_weighted_by_the_score_in_theirs():
    # Theirs: the area is where score times probability is at least 0.5. Ours: the probability.
    # Of the first mask half is sure (0.95) and half (0.73) is hidden by the second: of score 0.6,
    # its area is 96 columns in theirs, 192 in ours, of which it wins 96.
    masks = torch.stack(
        [rectangles((slice(0, 96), 3.0), (slice(96, 192), 1.0)), rectangles((slice(96, 192), 4.0))]
    )
    classes = torch.stack([logits(0, 0.6), logits(1, 0.9)])
    _, our_segments, _, their_segments = ours_and_theirs(classes, masks)
    assert [s[1] for s in our_segments] == [1]
    assert [s[1] for s in their_segments] == [0, 1]
    # with a score just above the threshold, nothing of it counts in theirs: 0.52 * 0.95 < 0.5
    classes = torch.stack([logits(0, 0.52), logits(1, 0.9)])
    _, our_segments, _, their_segments = ours_and_theirs(classes, masks, overlap=0.4)
    assert [s[1] for s in our_segments] == [0, 1]
    assert [s[1] for s in their_segments] == [1]


def test_panoptic_a_share_of_just_the_threshold_is_too_little_for_theirs():
    # Theirs: more than the threshold. Ours: at least the threshold.
    # The first wins 3 quarters of its mask.
    masks = torch.stack([rectangles(rest=3.0), rectangles((slice(0, 96), 4.0))])
    classes = torch.stack([logits(0, 1.0), logits(1, 1.0)])
    for overlap, number in [(0.74, 2), (0.75, 1), (0.76, 1)]:
        _, our_segments, _, their_segments = ours_and_theirs(classes, masks, overlap=overlap)
        assert len(their_segments) == number
        assert len(our_segments) == (2 if overlap == 0.75 else number)


def test_panoptic_merged_stuff_is_listed_again_and_resets_the_ids_of_theirs():
    # Theirs: each query adds an entry, with the id of the segment that it is merged into, from
    # which the next id is then counted: ids are used twice. Ours: one entry and one id a segment.
    columns = [slice(96 * i, 96 * i + 96) for i in range(4)]
    masks = torch.stack([rectangles((part, 3.0)) for part in columns])
    classes = torch.stack([logits(label, 0.9) for label in (3, 0, 3, 1)])
    ours, our_segments, them, their_segments = ours_and_theirs(classes, masks)
    assert our_segments == [(1, 3, False), (2, 0, True), (3, 1, True)]
    assert ours[0, ::96].tolist() == [1, 2, 1, 3]
    assert their_segments == [(1, 3, False), (2, 0, True), (1, 3, False), (2, 1, True)]
    assert them[0, ::96].tolist() == [1, 2, 1, 2]  # the last is not the second


def test_panoptic_a_map_without_segments_is_of_minus_ones_in_theirs():
    # Theirs: -1 everywhere (as float), though pixels between segments are 0. Ours: 0.
    classes, masks = case()
    ours, our_segments, them, their_segments = ours_and_theirs(classes, masks, threshold=1.0)
    assert our_segments == their_segments == []
    assert (ours == 0).all() and ours.dtype == torch.int32
    assert (them == -1).all() and them.dtype == torch.float32


def test_panoptic_probabilities_are_resized_by_theirs():
    # Theirs: probabilities are resized from 384 x 384. Ours: logits, then the sigmoid.
    ours, our_segments, them, their_segments = ours_and_theirs(*scene(), output=LARGER)
    assert our_segments == their_segments
    assert 0.999 < (ours == them).float().mean() < 1
