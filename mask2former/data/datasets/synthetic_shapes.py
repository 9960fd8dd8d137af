"""Names and ids of the synthetic set that `mask2former.data.preparation.synthetic` writes."""

FOLDER = "synthetic_shapes"
SPLITS = ("train", "val")

THING_CLASSES = ("disk", "ring", "rectangle", "triangle", "star")
STUFF_CLASSES = ("paper", "gravel")
# Category ids in the JSON files. They have gaps, as in COCO, so that code that confuses them with
# contiguous ids fails.
THING_IDS = (1, 2, 3, 5, 8)
STUFF_IDS = (20, 21)
