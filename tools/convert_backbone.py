#!/usr/bin/env python
"""The same as `python -m mask2former.cli.convert_backbone`."""

import sys

from mask2former.cli.convert_backbone import main

if __name__ == "__main__":
    sys.exit(main())
