"""The formats of a user's own data, by their names on command lines."""

from __future__ import annotations

FORMATS = {
    "coco": "COCO instance JSON",
    "coco-panoptic": "COCO panoptic JSON and PNG files",
    "yolo": "YOLO segmentation",
    "labelme": "LabelMe JSON",
    "voc": "Pascal VOC segmentation",
    "masks": "one mask file per object",
    "label-maps": "label maps of class numbers",
    "color-maps": "colour-coded label maps",
}
"""Each format by its name, in words."""
