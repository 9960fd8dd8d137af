"""The same as the command ``mask2former-runtime``."""

import sys

from .cli import main

sys.exit(main())
