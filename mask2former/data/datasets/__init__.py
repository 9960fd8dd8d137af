"""Classes of the built-in data sets: JSON files, one class per line, in order of contiguous ids.

| file | fields per class |
|---|---|
| ade20k.json | id (as in panoptic JSON), name, isthing, color; instance_name if the instance set uses another name |
| ade20k_full.json | name |
| coco_stuff_10k.json | id, name |
| mapillary_vistas.json | id, name, isthing, color |

The classes of COCO and of Cityscapes come with Detectron2.
"""  # noqa: E501

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_classes(name: str) -> list[Any]:
    """Read the classes of a data set.

    Args:
        name: name of a file in this folder, without ".json".
    """
    return json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
