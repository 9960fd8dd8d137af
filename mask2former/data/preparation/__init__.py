"""Make the files that data sets need beyond what their authors publish.

``python -m mask2former.data.preparation --help`` lists the preparations. Each output folder or JSON
file is a `Job`. `run` does a job with several processes, continues where an interrupted run
stopped, and checks the outputs at the end.
"""

from .ade20k import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic
from .coco import CocoSemantic
from .job import Job, run

__all__ = ["Ade20kInstance", "Ade20kPanoptic", "Ade20kSemantic", "CocoSemantic", "Job", "run"]
