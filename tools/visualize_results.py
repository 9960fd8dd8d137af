#!/usr/bin/env python
"""The same as `python -m mask2former.cli.visualize_results`."""

import sys

from mask2former.cli.visualize_results import main

if __name__ == "__main__":
    sys.exit(main())
