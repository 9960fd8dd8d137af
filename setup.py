"""Build script; the project's metadata is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Puts `configs/` into the package, where `mask2former.model_zoo` looks first.

    An editable install needs no copy: the checkout is next to the package.
    """

    def run(self):
        """Build as setuptools does, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "mask2former/model_zoo/configs")
            shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
            shutil.copytree("configs", target)


setup(cmdclass={"build_py": BuildWithConfigs})
