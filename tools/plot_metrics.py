#!/usr/bin/env python
"""The same as `python -m mask2former.cli.plot_metrics`."""

import sys

from mask2former.cli.plot_metrics import main

if __name__ == "__main__":
    sys.exit(main())
