"""The page for people."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources


class Page:
    """One HTML file with its script and style, which loads nothing from anywhere else.

    Attributes:
        content: the file.
        headers: of the answer: browsers run this script and this style only, whatever else may get
            into the page.
    """

    def __init__(self) -> None:
        text = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self.content = text.encode()
        script, style = (_digest(text, tag) for tag in ("script", "style"))
        policy = {
            "default-src": "'none'",
            "script-src": script,
            "style-src": style,
            "img-src": "blob: data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        self.headers: Mapping[str, str] = {
            "content-security-policy": "; ".join(f"{k} {v}" for k, v in policy.items()),
        }


def _digest(text: str, tag: str) -> str:
    """Return the name of the one inline script or style in a content security policy."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    assert len(found) == 1, f"{len(found)} elements {tag} in the page"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()}'"
