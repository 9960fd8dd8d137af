"""The console script `mask2former`.

It is not part of the package, because the package registers its models when it is imported. That
takes seconds, which help and mistakes in the arguments should not.
"""

is_starting = False
"""Whether the command is importing the package, which then does not register its models yet."""


def main() -> int:
    """Run the command line of this process and return the exit status."""
    global is_starting
    is_starting = True
    from mask2former.cli.main import main as run

    is_starting = False
    return run()
