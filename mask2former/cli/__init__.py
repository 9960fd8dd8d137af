"""Commands; run one by `python -m mask2former.cli.NAME --help`."""
