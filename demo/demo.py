#!/usr/bin/env python
"""Segment images or videos with a trained model: `python -m mask2former.cli.demo`."""

import sys

from mask2former.utils.cores import share_cores

if __name__ == "__main__":
    share_cores()
    from mask2former.cli.demo import main

    sys.exit(main())
