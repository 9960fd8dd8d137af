import pytest
import torch
from torch.nn import functional as F

from mask2former.modeling import postprocessing
from mask2former.modeling.postprocessing import instance_inference, mask_box


def literal(class_logits, mask_logits, padded, image, output, n):
    """All masks at full size first, then one (query, class) pair after the other."""
    big = F.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)
    big = big[..., : image[0], : image[1]]
    big = F.interpolate(big, size=output, mode="bilinear", align_corners=False)[0]
    probs = class_logits.softmax(-1)
    pairs = [
        (float(probs[q, k]), q, k) for q in range(len(probs)) for k in range(probs.shape[1] - 1)
    ]
    pairs.sort(reverse=True)
    for p, q, k in pairs[:n]:
        mask = big[q] > 0
        inside = big[q][mask].sigmoid()
        yield k, mask, p * float(inside.sum() / (mask.sum() + 1e-6))


@pytest.mark.parametrize("output", [(50, 70), (25, 36), (13, 90)])
@pytest.mark.parametrize("chunk", [1, 1 << 13, 1 << 24])
def test_equals_the_literal_rule(monkeypatch, output, chunk):
    monkeypatch.setattr(postprocessing, "CHUNK_PIXELS", chunk)
    torch.manual_seed(0)
    class_logits, mask_logits = torch.randn(6, 4), torch.randn(6, 8, 10) * 3
    mask_logits[2] = -1.0  # an empty mask
    sizes = {"padded_size": (32, 40), "image_size": (25, 36), "output_size": output}
    got = instance_inference(class_logits, mask_logits, **sizes, max_detections=10)
    wanted = list(literal(class_logits, mask_logits, (32, 40), (25, 36), output, 10))
    assert len(got) == 10 and got.image_size == output
    assert got.pred_masks.dtype == torch.bool
    for i, (label, mask, score) in enumerate(wanted):
        assert got.pred_classes[i] == label
        assert torch.equal(got.pred_masks[i], mask)
        assert got.scores[i].item() == pytest.approx(score, rel=1e-5, abs=1e-7)
        assert torch.equal(got.pred_boxes.tensor[i], mask_box(mask))


def test_more_detections_than_pairs_gives_all_pairs():
    result = instance_inference(
        torch.randn(2, 3),
        torch.randn(2, 4, 4),
        padded_size=(16, 16),
        image_size=(16, 16),
        output_size=(16, 16),
        max_detections=100,
    )
    assert len(result) == 4


def test_boxes_enclose_masks_tightly():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    assert mask_box(mask).tolist() == [0, 0, 0, 0]
    mask[1, 2] = mask[3, 5] = True
    assert mask_box(mask).tolist() == [2, 1, 6, 4]
