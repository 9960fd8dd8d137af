#!/usr/bin/env python
"""Train or evaluate Mask2Former; ``train_net.py --help`` lists the arguments."""

from mask2former.utils.cores import share_cores

if __name__ == "__main__":
    share_cores()
    from mask2former.cli.train import main

    main()
