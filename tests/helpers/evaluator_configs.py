"""Configs of models that predict the tasks of a test."""

from support import REPOSITORY, TINY

from mask2former import load_config

TASKS = {"panoptic_seg": "PANOPTIC_ON", "instances": "INSTANCE_ON", "sem_seg": "SEMANTIC_ON"}


def make_cfg(output_dir, task: str, *options):
    """Return the quickstart's config of a task, with a tiny model."""
    return load_config(
        str(REPOSITORY / f"configs/quickstart/{task}.yaml"),
        [*TINY, "OUTPUT_DIR", str(output_dir), *options],
    )


def switches(*tasks):
    """Return the options that let a model predict these tasks and no other."""
    return [
        part
        for task, key in TASKS.items()
        for part in (f"MODEL.MASK_FORMER.TEST.{key}", task in tasks)
    ]
