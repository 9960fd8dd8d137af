#!/usr/bin/env python
"""The same as `python -m mask2former.cli.submit_slurm`."""

import sys

from mask2former.cli.submit_slurm import main

if __name__ == "__main__":
    sys.exit(main())
