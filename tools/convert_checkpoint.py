#!/usr/bin/env python
"""The same as `python -m mask2former.cli.convert_checkpoint`."""

import sys

from mask2former.cli.convert_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
