"""The command ``mask2former VERB``: parse the arguments, then import what the verb needs.

A verb is a module of this folder with a docstring, whose first line is its help and which ends with
"Examples:", and with two functions:

- ``add_arguments(parser)`` adds the verb's arguments to an `argparse.ArgumentParser`.
- ``run(args)`` does the work and returns the exit status. It may raise what `run_reporting_errors`
  reports.

Verbs import PyTorch, Detectron2 and the parts of this package that need them in ``run`` only, so
that help, completion and mistakes in the arguments do not wait for them.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Sequence

from mask2former_runtime.commands import run_reporting_errors, start_output

from .. import __version__
from ..utils.cores import share_cores
from .flags import HelpFormatter

# In the order of the help.
VERBS = (
    "predict",
    "train",
    "evaluate",
    "find-lr",
    "check",
    "convert",
    "convert-data",
    "export",
    "serve",
    "zoo",
    "env",
)

DESCRIPTION = "Segment images with Mask2Former, and train, evaluate and convert models."
EPILOG = """\
mask2former VERB --help describes a verb.

exit status: 0 everything was done; 1 something was not, because of a file, the data or the machine;
2 nothing was done, because the command, the config or the weights are wrong; 130 interrupted, 143
ended by SIGTERM, 141 nobody reads the output.
"""


def argument_parser() -> argparse.ArgumentParser:
    """Build the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="mask2former", description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"mask2former {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in VERBS:
        module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
        text, separator, examples = (module.__doc__ or "").partition("\nExamples:\n")
        verb = verbs.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            epilog=separator.lstrip() + examples,
            formatter_class=HelpFormatter,
        )
        module.add_arguments(verb)
        verb.set_defaults(run=module.run, prog=verb.prog)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argument_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks how a word may go on
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(arguments)
    share_cores()
    start_output("mask2former")
    return run_reporting_errors(args.prog, args.run, args)
