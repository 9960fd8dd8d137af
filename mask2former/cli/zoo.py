"""List the published models, describe one, or download its weights.

The published weights are licensed CC BY-NC 4.0, which excludes commercial use.

Examples:
  mask2former zoo                                  all names
  mask2former zoo list panoptic swin               names with both words
  mask2former zoo show coco/instance-segmentation/maskformer2_R50_bs16_50ep
  mask2former zoo download coco/instance-segmentation/maskformer2_R50_bs16_50ep
"""

from __future__ import annotations

import argparse

ACTIONS = {"show": "describe a model", "download": "download its weights into the cache"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action")
    find = actions.add_parser("list", help="list the names; without an action, all of them")
    find.add_argument("words", nargs="*", metavar="WORD", help="only names with all these words")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name", metavar="NAME", help="as listed")


def run(args: argparse.Namespace) -> int:
    """List, describe or download; return 1 if no name has the words."""
    from .. import model_zoo

    if args.action == "show":
        print(describe(args.name))
    elif args.action == "download":
        from ..checkpoint import local_weights

        print(local_weights(model_zoo.get_checkpoint_url(args.name)))
    else:
        words = [word.lower() for word in getattr(args, "words", ())]
        names = [n for n in model_zoo.model_names() if all(word in n.lower() for word in words)]
        print("\n".join(names) or f"no name has {' and '.join(words)}")
        return 0 if names else 1
    return 0


def describe(name: str) -> str:
    """Return what the config of a published model says, one fact per line."""
    from .. import model_zoo
    from ..analysis import build_on_meta, parameters_by_part
    from ..tasks import tasks_of

    cfg = model_zoo.get_config(name)
    backbone = cfg.MODEL.BACKBONE.NAME
    if backbone == "build_resnet_backbone":
        backbone = f"ResNet-{cfg.MODEL.RESNETS.DEPTH}"
    try:
        weights = model_zoo.get_checkpoint_url(name)
    except ValueError as error:
        weights = str(error)
    parameters = sum(parameters_by_part(build_on_meta(cfg)).values())
    facts = {
        "config": model_zoo.get_config_file(name),
        "tasks": ", ".join(task.name for task in tasks_of(cfg) or ()),
        "data": ", ".join((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)),
        "classes": str(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES),
        "backbone": backbone,
        "parameters": f"{parameters / 1e6:.1f} million",
        "training": f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images",
        "weights": weights,
    }
    return "\n".join(f"{key:<11} {value}" for key, value in facts.items())
