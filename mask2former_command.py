"""The console script `mask2former`.

It is not part of the package, because the package registers its models when it is imported. That
takes seconds, which help and mistakes in the arguments should not.
"""

import os

is_starting = False
"""Whether the command is importing the package, which then does not register its models yet."""


def share_cores() -> None:
    """Let threads of PyTorch sleep while they wait for each other, unless the user decided.

    They spin otherwise, and lose whole time slices where another program uses a core: beside one
    busy program, a training step on two cores took 13.6 s instead of 1.2 s. It must be called
    before PyTorch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> int:
    """Run the command line of this process and return the exit status."""
    global is_starting
    share_cores()
    is_starting = True
    from mask2former.cli.main import main as run

    is_starting = False
    return run()
