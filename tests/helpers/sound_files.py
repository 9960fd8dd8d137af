"""The contents of small sound files in COCO's formats, to be damaged."""

import numpy as np
import pycocotools.mask as mask_util

HEIGHT, WIDTH = 30, 40
# The segment that each pixel belongs to.
IDS = np.repeat([0, 7, 300, 70_000], 10)[None, :WIDTH].repeat(HEIGHT, axis=0)


def instance_content():
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[3:20, 5:30] = 1
    rle = mask_util.encode(mask)["counts"].decode()
    rest = {"bbox": [5, 3, 25, 17], "area": 425, "iscrowd": 0}
    kinds = (
        [[5, 3, 30, 3, 30, 20.5, 5, 20]],
        {"size": [HEIGHT, WIDTH], "counts": rle},
        {"size": [HEIGHT, WIDTH], "counts": [150, 450, 600]},
    )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "categories": [{"id": 4, "name": "tree"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1 + i % 2,
                "category_id": 2 + i % 2 * 2,
                "segmentation": s,
                **rest,
            }
            for i, s in enumerate(kinds, start=1)
        ],
    }


def panoptic_content():
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "categories": [
            {"id": 4, "name": "tree", "isthing": 0, "color": [1, 2, 3]},
            {"id": 2, "name": "cat", "isthing": 1, "color": [4, 5, 6]},
        ],
        "annotations": [
            {
                "image_id": i,
                "file_name": f"{i}.png",
                "segments_info": [
                    {"id": 7, "category_id": 4, "iscrowd": 0, "area": 300, "bbox": [10, 0, 10, 30]},
                    {"id": 300, "category_id": 2, "iscrowd": 0, "area": 300},
                    {"id": 70_000, "category_id": 2, "iscrowd": 1, "area": 300},
                ],
            }
            for i in (1, 2)
        ],
    }
