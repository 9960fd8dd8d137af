"""The directive `config-keys`: config keys, their defaults and the comments above them.

`mask2former/config/defaults.py` describes each key by the comment above it; keys that follow one
another without a comment between them share one. The directive takes the name of a function of that
file and lists its keys. The role `config-key` links to one.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

DEFAULTS = Path(__file__).parents[2] / "mask2former/config/defaults.py"
OBJECT_TYPE = "config-key"


@dataclass
class KeyGroup:
    """Keys that one comment describes."""

    text: str
    keys: dict[str, str] = field(default_factory=dict)
    """Default of each dotted key, as Python writes it."""


def read_groups(source: str) -> dict[str, list[KeyGroup]]:
    """Parse the comments of the source, and return the groups of each function that has any.

    Raises:
        ValueError: a key has no comment above it.
    """
    lines = source.splitlines()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    groups = {function.name: _groups_of(function, lines) for function in functions}
    return {name: found for name, found in groups.items() if found}


def _groups_of(function: ast.FunctionDef, lines: list[str]) -> list[KeyGroup]:
    groups: list[KeyGroup] = []
    for statement in function.body:
        if not isinstance(statement, ast.Assign):
            continue
        comment = _comment_above(statement.lineno, lines)
        if comment:
            groups.append(KeyGroup(comment))
        key = ast.unparse(statement.targets[0]).removeprefix("cfg.")
        value = ast.unparse(statement.value)
        if value == "CfgNode()":
            continue
        if not groups or not (comment or lines[statement.lineno - 2].strip()):
            raise ValueError(f"{DEFAULTS}:{statement.lineno}: {key} has no comment above it")
        groups[-1].keys[key] = value
    return [group for group in groups if group.keys]


def _comment_above(line_number: int, lines: list[str]) -> str:
    """Return the text of the comment that ends above a line, which is counted from 1."""
    comment: list[str] = []
    for line in reversed(lines[: line_number - 1]):
        if not line.lstrip().startswith("#"):
            break
        comment.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(comment)


class ConfigKeys(SphinxDirective):
    """List the keys that a function of the defaults adds."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make a definition list."""
        self.env.note_dependency(str(DEFAULTS))
        found: list[nodes.Node] = []
        for group in read_groups(DEFAULTS.read_text(encoding="utf-8"))[self.arguments[0]]:
            description = addnodes.desc(
                objtype=OBJECT_TYPE, domain="std", no_index=False, classes=[OBJECT_TYPE]
            )
            for key, default in group.keys.items():
                description += self._signature(key, default)
            content = addnodes.desc_content()
            content += nodes.paragraph("", "", *_with_code(group.text))
            description += content
            found.append(description)
        return found

    def _signature(self, key: str, default: str) -> nodes.Node:
        identifier = nodes.make_id(f"{OBJECT_TYPE}-{key}")
        signature = addnodes.desc_signature("", "", ids=[identifier], classes=["sig"])
        signature += addnodes.desc_name(key, key)
        signature += nodes.inline("", f" = {default}", classes=["default"])
        self.env.domains.standard_domain.note_object(OBJECT_TYPE, key, identifier)
        return signature


def _with_code(text: str) -> list[nodes.Node]:
    """Return the nodes of a text in which backticks and the names of keys are code."""
    name = r"`[^`]+`|\b[A-Z][A-Z0-9]*(?:[_.][A-Z0-9]+)+\b"
    parts: list[nodes.Node] = []
    for part in re.split(f"({name})", text):
        is_code = re.fullmatch(name, part)
        parts.append(nodes.literal("", part.strip("`")) if is_code else nodes.Text(part))
    return parts


def parse_signature(env: BuildEnvironment, text: str, node: addnodes.desc_signature) -> str:
    """Take the text of a `config-key` directive as the name of the key."""
    node += addnodes.desc_name(text, text)
    return text


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_object_type(OBJECT_TYPE, OBJECT_TYPE, parse_node=parse_signature)
    directive: type[Directive] = ConfigKeys
    app.add_directive("config-keys", directive)
    return {"parallel_read_safe": True}
