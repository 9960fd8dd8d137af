"""What the API reference shows of docstrings and signatures.

Single backticks are code, and links to names that are in the reference.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment


def name_role(
    role: str, rawtext: str, text: str, line: int, inliner: Inliner, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Make a link to a Python object if the text may be the name of one, otherwise code."""
    if re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
        # Classes are found in any module, other names only in that of the docstring.
        target = f".{text}" if re.match(r"[A-Z]+[a-z]", text) else text
        return PyXRefRole()("py:obj", target, target, line, inliner)
    return [nodes.literal(rawtext, text)], []


def keep_as_code(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Node | None:
    """Leave backticks without a link; what an annotation or a role names must exist."""
    return contnode if (node.get("refdomain"), node["reftype"]) == ("py", "obj") else None


def readable_defaults(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, signature: str | None, result: str
) -> tuple[str, str] | None:
    """Write `...` for the factories of dataclasses, which Python shows as what is not Python."""
    return signature and (signature.replace("<factory>", "..."), result)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_role("name", name_role)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", keep_as_code)
    return {"parallel_read_safe": True}
