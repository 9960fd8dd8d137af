"""YAML files that their aliases make huge."""

from __future__ import annotations

import yaml

# Values in a file, those that aliases repeat included; published configs have some hundred.
_MAX_NODES = 100_000


def alias_problem(root: yaml.Node) -> str | None:
    """Return what is wrong if aliases make a small YAML file huge, or endless.

    Args:
        root: the file, composed but not turned into Python objects.
    """
    if _expanded_size(root, {}) > _MAX_NODES:
        return f"its aliases make more than {_MAX_NODES} values"
    return None


def _expanded_size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Return how many values a node stands for; infinitely many if it contains itself."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [
            part for child in children for part in (child if type(child) is tuple else [child])
        ]
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes) for part in parts)
    return sizes[id(node)]
