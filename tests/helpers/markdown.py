"""Code blocks and links of the documentation's Markdown files."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for pattern in ("*.md", "docs/**/*.md", ".github/*.md")
    for path in REPOSITORY.glob(pattern)
    if "_build" not in path.parts
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None
    """Why the example is not run, by a comment `<!-- not run: WHY -->` on the line above."""

    @property
    def code(self) -> str:
        """The text at its lines of the page, so that tracebacks point there."""
        return "\n" * self.line + self.text


def blocks(page: str, language: str) -> list[Block]:
    text = (REPOSITORY / page).read_text()
    pattern = r"^(?:<!-- not run: (.+?) -->\n)?```(\w*)\n(.*?)^```$"
    return [
        Block(page, text.count("\n", 0, match.start(3)), match[2], match[3], match[1])
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE)
        if match[2] == language
    ]


def commands(page: str) -> list[list[str]]:
    """The words of each command in the page's shell examples."""
    lines = "\n".join(block.text for block in blocks(page, "bash")).replace("\\\n", " ")
    return [words for line in lines.splitlines() if (words := shlex.split(line, comments=True))]


def local_links(page: str) -> list[str]:
    text = re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as hosts of repositories make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
