"""Settings of the documentation; `make docs` builds it strictly."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "runtime"), str(DOCS / "_ext")]

import mask2former  # noqa: E402  of this checkout

project = "Mask2Former for Detectron2"
author = "The contributors of this project"
copyright = f"{author}. MIT licence"
version = release = mask2former.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api_reference",
    "config_keys",
]
exclude_patterns = ["_build"]
nitpicky = True
# Other projects' names: their inventories are not fetched, so that the build needs no network.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(argparse|collections|datetime|detectron2|enum|fvcore|numpy|np|os|pathlib|PIL|torch|typing|yacs)\..+",
    ),
]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # an included page may begin below the first level

default_role = "name"  # see api_reference
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
python_maximum_signature_line_length = 80
add_module_names = False
