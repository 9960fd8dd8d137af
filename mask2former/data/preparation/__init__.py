"""Make the files that data sets need beyond what their authors publish.

``python -m mask2former.data.preparation --help`` lists what there is. Each is a `Job` an output
folder or JSON file; `run` does it with several processes, goes on where an interrupted run stopped,
and checks what is there in the end.
"""

from .ade20k import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic
from .coco import CocoSemantic
from .job import Job, run

__all__ = ["Ade20kInstance", "Ade20kPanoptic", "Ade20kSemantic", "CocoSemantic", "Job", "run"]
