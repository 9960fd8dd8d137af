#!/usr/bin/env python
"""Train or evaluate Mask2Former; ``train_net.py --help`` lists the arguments."""

from mask2former.cli.train import main

if __name__ == "__main__":
    main()
