#!/usr/bin/env python
"""The same as `python -m mask2former.cli.analyze_model`."""

import sys

from mask2former.cli.analyze_model import main

if __name__ == "__main__":
    sys.exit(main())
