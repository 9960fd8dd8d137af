#!/usr/bin/env python
"""Segment images or videos with a trained model: `python -m mask2former.cli.demo`."""

import sys

from mask2former.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
