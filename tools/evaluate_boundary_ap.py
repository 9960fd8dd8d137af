#!/usr/bin/env python
"""The same as `python -m mask2former.cli.evaluate_boundary_ap`."""

import sys

from mask2former.cli.evaluate_boundary_ap import main

if __name__ == "__main__":
    sys.exit(main())
