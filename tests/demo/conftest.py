"""The demo's modules lie beside the script, as `python demo/demo.py` finds them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))
