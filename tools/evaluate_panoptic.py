#!/usr/bin/env python
"""The same as `python -m mask2former.cli.evaluate_panoptic`."""

import sys

from mask2former.cli.evaluate_panoptic import main

if __name__ == "__main__":
    sys.exit(main())
