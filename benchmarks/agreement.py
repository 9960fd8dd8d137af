#!/usr/bin/env python
"""One model, one photograph, two programs: our demo against Hugging Face `transformers`.

Runs `demo/demo.py` on a Hugging Face Mask2Former folder (instance segmentation) and, in this
process, that model in `transformers` on the same file, each with its own preprocessing, and
compares the masks pixel by pixel. Their masks are computed in two ways:

    full       their logits, resized to the photograph as the published code does it
    their own  what `post_process_instance_segmentation` returns: masks of 384 x 384 pixels,
               enlarged without interpolation

Their preprocessing stretches a photograph to sides that are multiples of 32; the published code and
ours pad it. The programs are therefore compared on two files: the photograph, and a copy whose size
neither program changes. Random weights amplify small differences of the input, so the copy shows
best whether the networks compute the same.

If the folder does not exist, the script makes one with random weights and the size of
`facebook/mask2former-swin-base-coco-instance`.

    python benchmarks/agreement.py FOLDER photo.jpg
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
)

REPOSITORY = Path(__file__).parents[1]


@dataclass
class Detection:
    """One instance: class number, score, bool mask (H, W)."""

    label: int
    score: float
    mask: np.ndarray


def make_random_swin_base(folder: Path) -> None:
    """Save a model with random weights and the sizes of the published Swin-B for COCO instances."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=384,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=80)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": 800, "longest_edge": 1333}
    Mask2FormerImageProcessor(size=size, size_divisor=32).save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "mask2former_task": "instance"}, indent=2))


def ours(folder: Path, image: Path) -> list[Detection]:
    """Return what the demo finds, at any score."""
    with tempfile.TemporaryDirectory() as output:
        results = Path(output, "results.json")
        subprocess.run(
            [
                *(sys.executable, REPOSITORY / "demo/demo.py", "--config-file", folder),
                *("--input", image, "--json", results, "--output", Path(output, "drawing.png")),
                *("--confidence-threshold", "0", "--opts", "MODEL.DEVICE", "cpu"),
            ],
            check=True,
        )
        found = json.loads(results.read_text())
    return [
        Detection(x["category_id"], x["score"], rle.decode(x["segmentation"]).astype(bool))
        for x in found
    ]


@torch.no_grad()
def theirs(folder: Path, image: Path) -> dict[str, list[Detection]]:
    """Return what `transformers` finds, with masks computed in the two ways."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    with Image.open(image) as file:
        photo = file.convert("RGB")
    inputs = processor(photo, return_tensors="pt")
    outputs = model(pixel_values=inputs["pixel_values"])
    height, width = photo.height, photo.width
    (result,) = processor.post_process_instance_segmentation(
        outputs, threshold=0.0, target_sizes=[(height, width)], return_binary_maps=True
    )
    maps = [] if result["segmentation"] is None else result["segmentation"]
    own = [
        Detection(info["label_id"], info["score"], mask.numpy().astype(bool))
        for info, mask in zip(result["segments_info"], maps, strict=True)
    ]

    probs = outputs.class_queries_logits[0].softmax(-1)[:, :-1]
    scores, pairs = probs.flatten().topk(100)
    queries, labels = pairs // probs.shape[1], pairs % probs.shape[1]
    inside = inputs["pixel_mask"][0]  # the photograph within the padded input
    rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
    full = []
    for score, query, label in zip(scores, queries, labels, strict=True):
        logits = outputs.masks_queries_logits[:, query : query + 1]
        logits = F.interpolate(logits, inside.shape, mode="bilinear")[..., :rows, :columns]
        logits = F.interpolate(logits, (height, width), mode="bilinear")[0, 0]
        mask = logits > 0
        if mask.any():
            score = float(score * logits.sigmoid()[mask].mean())
            full.append(Detection(int(label), score, mask.numpy()))
    return {"full": full, "their own": own}


def compare(these: list[Detection], those: list[Detection]) -> dict[str, float]:
    """Pair each detection with the best one of its class on the other side, and summarise."""
    overlaps, pixels, differences = [], [], []
    for detection in these:
        candidates = [d for d in those if d.label == detection.label]
        if not candidates:
            overlaps.append(0.0)
            continue
        ious = [
            np.logical_and(detection.mask, d.mask).sum()
            / np.logical_or(detection.mask, d.mask).sum()
            for d in candidates
        ]
        best = candidates[int(np.argmax(ious))]
        overlaps.append(float(max(ious)))
        pixels.append(float((detection.mask == best.mask).mean()))
        differences.append(abs(detection.score - best.score))
    return {
        "pixels that agree": float(np.mean(pixels)),
        "least agreeing mask": float(np.min(pixels)),
        "mean IoU": float(np.mean(overlaps)),
        "least IoU": float(np.min(overlaps)),
        "largest difference of scores": float(np.max(differences)),
    }


def copy_that_needs_no_resizing(folder: Path, image: Path, copy: Path) -> None:
    """Save the photograph in the size of the network's input."""
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    with Image.open(image) as file:
        photo = file.convert("RGB")
    scale = size["shortest_edge"] / min(photo.size)
    sides = (
        min(round(side * scale / 32) * 32, size["longest_edge"] // 32 * 32) for side in photo.size
    )
    photo.resize(tuple(sides)).save(copy)


def main() -> None:
    """Print the agreement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("image", type=Path)
    args = parser.parse_args()
    if not args.folder.exists():
        make_random_swin_base(args.folder)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "copy.png")
        copy_that_needs_no_resizing(args.folder, args.image, copy)
        for image in (args.image, copy):
            found = ours(args.folder, image)
            for way, detections in theirs(args.folder, image).items():
                print(f"{image.name}: {len(found)} here, {len(detections)} there, {way}")
                for name, value in compare(found, detections).items():
                    print(f"  {name}: {value:.6f}")


if __name__ == "__main__":
    main()
