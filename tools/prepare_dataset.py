#!/usr/bin/env python
"""Make the files that data sets need beyond what their authors publish; ``--help`` lists them.

python tools/prepare_dataset.py ade20k-semantic ade20k-panoptic --datasets ~/datasets
"""

import sys

from mask2former.data.preparation.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
