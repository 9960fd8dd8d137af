"""Flags that the verbs of `mask2former` and `train_net.py` have in common. They need no PyTorch."""
