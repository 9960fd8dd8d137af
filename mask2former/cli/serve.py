"""Serve a model over HTTP, with a page to try it, and for Label Studio.

Only this machine can reach the server, unless --host says otherwise; then clients must send a
token. Needs pip install "mask2former[serve]". Ctrl-C or SIGTERM ends it after the requests that
it has accepted.

Examples:
  mask2former serve output/mine
  curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict
  mask2former serve output/mine --host 0.0.0.0 --token "$(openssl rand -hex 16)"
  mask2former serve output/mine --label-studio-url http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..flags.folder import add_task
from ..flags.precision import add_precision
from .flags import add_model, add_model_flags

MEBIBYTE = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the address and the limits."""
    add_model(parser)
    add_task(parser, "for requests that name none")
    add_model_flags(parser)
    add_precision(parser)
    where = parser.add_argument_group("who may use it")
    where.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    where.add_argument(
        "--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)"
    )
    where.add_argument(
        "--token", help="what clients must send (default: $MASK2FORMER_TOKEN, which ps hides)"
    )
    where.add_argument(
        "--label-studio-url",
        metavar="URL",
        help="read images of tasks from there, with $LABEL_STUDIO_API_KEY",
    )
    limits = parser.add_argument_group("limits")
    for flag, value, kind, text in (
        ("--max-upload", 20, float, "MiB per request"),
        ("--max-pixels", 50, float, "millions per image"),
        ("--queue", 64, int, "requests at a time; others are told to come back"),
        ("--batch", 1, int, "images of one size that the model takes at once"),
        ("--timeout", 120, float, "seconds that a request may wait for the model"),
    ):
        limits.add_argument(
            flag, type=kind, default=value, metavar="N", help=f"{text} (default: {value})"
        )


def run(args: argparse.Namespace) -> int:
    """Load the model and serve it."""
    try:
        from ..serve.limits import Limits
        from ..serve.model import ServedModel
        from ..serve.security import TOKEN_VARIABLE, check_token
        from ..serve.server import serve
        from ..serve.task_images import KEY_VARIABLE, TaskImages
    except ImportError as error:
        raise ImportError(
            f'serving needs {error.name}: pip install "mask2former[serve]"'
        ) from error
    from ..api import Mask2Former
    from ..utils.memory import reuse_freed_memory

    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    check_token(token, args.host)  # before the model is loaded, which takes seconds
    if not 0 <= args.port < 65536:
        raise ValueError(f"--port {args.port}: a port is from 0 to 65535")
    for flag in ("max_upload", "max_pixels", "queue", "batch", "timeout"):
        value = getattr(args, flag)
        if not 0 < value < float("inf"):
            name = flag.replace("_", "-")
            raise ValueError(f"--{name} {value:g}: it must be more than 0, and finite")
    limits = Limits(
        upload_bytes=round(args.max_upload * MEBIBYTE),
        pixels=round(args.max_pixels * 1e6),
        queue=args.queue,
        batch=args.batch,
        queue_seconds=args.timeout,
    )
    task_images = TaskImages(args.label_studio_url, os.environ.get(KEY_VARIABLE) or None, limits)
    model = Mask2Former.from_pretrained(
        args.model,
        task=args.task,
        device=args.device,
        precision=args.precision,
        overrides=args.opts,
        allow_unsafe_config=args.allow_unsafe_config,
        allow_unsafe_weights=args.allow_unsafe_weights,
    )
    if model.device.type == "cpu":
        reuse_freed_memory()
    serve(
        ServedModel(model, Path(args.model).resolve().name),
        host=args.host,
        port=args.port,
        token=token,
        limits=limits,
        task_images=task_images,
    )
    return 0
