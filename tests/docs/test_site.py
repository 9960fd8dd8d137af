"""The documentation builds without a warning, and describes every config key."""

import ast
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from support import REPOSITORY

from mask2former import add_maskformer2_config

pytest.importorskip("sphinx")
DOCS = REPOSITORY / "docs"


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-b", "html"]
    return subprocess.run(
        [*command, source, output], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("site")
    result = build(DOCS, output)
    assert result.returncode == 0, result.stderr
    return output


def flatten(node: CfgNode, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in node.items():
        nested = isinstance(value, CfgNode)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def added_keys() -> dict[str, object]:
    cfg = get_cfg()
    add_maskformer2_config(cfg)
    return {key: value for key, value in flatten(cfg).items() if key not in flatten(get_cfg())}


def test_every_config_key_has_its_default_and_a_text(site):
    page = (site / "config.html").read_text()
    found = {}
    for entry in re.findall(r'<dl class="config-key.*?</dl>', page, re.DOTALL):
        text = re.sub(r"<.*?>", "", entry.split("<dd>")[1])
        for term in re.findall(r"<dt.*?</dt>", entry, re.DOTALL):
            words = html.unescape(re.sub(r"<.*?>", "", term)).replace("¶", "")
            key, _, default = words.strip().partition(" = ")
            assert len(text.split()) > 2, key
            found[key] = ast.literal_eval(default)
    assert found == added_keys()


def test_public_names_are_in_the_reference(site):
    page = (site / "api/data.html").read_text()
    for name in ("check_coco_json", "build_train_loader", "DatasetError"):
        assert f'id="mask2former.data.{name}"' in page


def test_the_build_fails_if_links_lead_nowhere(tmp_path):
    wrong = {
        "no_such_page.md": "[a page](no_such_page.md)",
        "no_such_file.py": "[a file](../no_such_file.py)",
        "no-such-heading": "[a heading](#no-such-heading)",
        "SOLVER.NO_SUCH_KEY": "{config-key}`SOLVER.NO_SUCH_KEY`",
        "mask2former.no_such_function": "{py:func}`mask2former.no_such_function`",
    }
    source = tmp_path / "docs"
    for folder in ("_ext", "_static"):
        shutil.copytree(DOCS / folder, source / folder)
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text("# Title\n\n" + "\n\n".join(wrong.values()) + "\n")
    result = build(source, tmp_path / "site")
    assert result.returncode != 0
    assert [name for name in wrong if name not in result.stderr] == []


def test_keys_without_a_comment_are_found(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    from config_keys import read_groups

    good = "def f(cfg):\n    # Two.\n    cfg.A.B = 1\n    cfg.A.C = 2\n"
    (group,) = read_groups(good)["f"]
    assert (group.text, group.keys) == ("Two.", {"A.B": "1", "A.C": "2"})
    for bad in ("\n    cfg.A.D = 3\n", "\n\n    # Other.\n\n    cfg.A.D = 3\n"):
        with pytest.raises(ValueError, match=r"A\.D has no comment"):
            read_groups(good + bad)
