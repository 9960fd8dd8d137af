"""Reading a page as a browser does."""

import subprocess

import html5lib
from browser import find_chromium

ELEMENT = "{http://www.w3.org/1999/xhtml}"
# Names that a file of annotations may hold.
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg></title><b>bold",
    "{{ 7 * 7 }} {% raw %}",
    "null\0 escape\x1b[31m \u202e \udcff surrogate",
    "é" * 200,
    "' onmouseover='alert(1)",
    "&lt;&amp;",
]


def parse(page: str):
    """Return the tree of a page; errors of the markup fail."""
    return html5lib.HTMLParser(strict=True).parse(page)


def texts(tree, tag: str) -> list[str]:
    """The text of all elements with a tag."""
    return ["".join(e.itertext()).strip() for e in tree.iter(f"{ELEMENT}{tag}")]


def assert_self_contained(page: str) -> None:
    """Nothing runs, and nothing is loaded from elsewhere."""
    allowed = {"http-equiv", "href", "src"}
    for element in parse(page).iter():
        if not isinstance(element.tag, str):
            continue
        name = element.tag.rsplit("}")[-1]
        assert name not in ("script", "iframe", "object", "embed", "link", "base", "form")
        for key, value in element.attrib.items():
            assert not key.lower().startswith("on"), (name, key)
            if key in allowed - {"http-equiv"}:
                assert value.startswith("#s" if name == "a" else "data:image/jpeg;base64,") or (
                    value == "#main"
                )
    assert "url(" not in page and "@import" not in page


def dump_dom(path, folder) -> str:
    """The document as Chromium has it after running whatever it would run."""
    command = [
        find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
        "--dump-dom", f"file://{path}",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return found.stdout
