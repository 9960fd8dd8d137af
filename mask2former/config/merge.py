"""Merging config files and command-line overrides, safely and with readable errors.

Detectron2's `CfgNode.merge_from_file` runs Python from YAML tags unless told otherwise. Its message
about a wrong key names neither the file nor a similar key. These functions check the files first.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from mask2former_runtime.text import one_line

from ..utils.yaml_aliases import alias_problem

# The path of a config file and its content, parsed but not turned into Python objects.
ComposedFile = tuple[str, yaml.MappingNode]
# Files that a config may consist of; the published ones have up to four.
_MAX_FILES = 32


def merge_file(cfg: CfgNode, config_file: str, allow_unsafe: bool = False) -> None:
    """Merge a YAML file, and the files that its `_BASE_` names, into `cfg`.

    Args:
        cfg: holds every key that the file may set.
        config_file: path, or URL that Detectron2's `PathManager` opens.
        allow_unsafe: construct Python objects from YAML tags such as `!!python/object/apply`.
            This runs code written by the file's author.

    Raises:
        ValueError: a file is missing or not YAML, a key is unknown, a value has the wrong type,
            or a tag would run Python and `allow_unsafe` is false.
    """
    # Composing builds no objects, so it is safe whatever tags the files have.
    files = _compose_with_bases(str(config_file))
    for name, root in files:
        if problem := alias_problem(root):
            raise ValueError(f"{name}: {problem}")
    problems = [
        f"{name}:{problem}" for name, root in files for problem in _wrong_keys(root, cfg, cfg)
    ]
    if problems:
        raise ValueError("\n".join(problems))
    try:
        cfg.merge_from_file(str(config_file), allow_unsafe=allow_unsafe)
    except yaml.constructor.ConstructorError as error:
        mark = error.problem_mark
        problem = f"{mark.name}:{mark.line + 1}: {error.problem}"
        if "python/" in str(error.problem) and not allow_unsafe:
            problem += (
                ". This tag runs Python code while the file loads. If you trust the author of the "
                "file, allow it with --allow-unsafe-config"
            )
        raise ValueError(problem) from error
    except (ValueError, AssertionError, TypeError, LookupError, yaml.YAMLError) as error:
        key, problem = _type_mismatch(error)
        raise ValueError(f"{_locate(key, files) or config_file}: {problem}") from error


def merge_overrides(cfg: CfgNode, overrides: Sequence[object]) -> None:
    """Merge `[key, value, key, value, ...]`, such as words of a command line, into `cfg`.

    Raises:
        ValueError: a key is unknown or lacks a value, or a value has the wrong type.
    """
    if len(overrides) % 2:
        raise ValueError(
            "config overrides are pairs: KEY VALUE KEY VALUE ...; got an odd number of words: "
            f"{one_line(' '.join(map(str, overrides)))}"
        )
    known = set(_dotted_keys(cfg))
    # Merging one pair at a time shows which pair an error is about.
    for key, value in zip(map(str, overrides[::2]), overrides[1::2], strict=True):
        if key not in known:
            words = one_line(f"{key} {value}")
            raise ValueError(f"config override '{words}': {_unknown(key, cfg)}")
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, TypeError, MemoryError, RecursionError) as error:
            raise ValueError(f"config override: {_type_mismatch(error)[1]}") from error


def written_keys(
    config_file: str, shipped: str | os.PathLike[str]
) -> tuple[frozenset[str], str | None]:
    """Return which keys a user's own config files set.

    Args:
        config_file: path of a YAML file that `merge_file` takes.
        shipped: folder of config files that are not the user's.

    Returns:
        The full names of the keys that files outside of `shipped` set, and the first file inside
        of it that the others derive from, or None.
    """
    inside = os.path.join(os.path.realpath(shipped), "")
    keys: set[str] = set()
    base = None
    for name, root in _compose_with_bases(str(config_file)):
        if os.path.realpath(name).startswith(inside):
            base = base or name
        else:
            keys.update(_leaves(root))
    return frozenset(keys), base


def get_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key such as "SOLVER.MAX_ITER"."""
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _leaves(node: yaml.MappingNode, prefix: str = "") -> Iterator[str]:
    """Yield the full names of the keys that have a value in a composed file."""
    for key_node, value in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _leaves(merged, prefix)
        elif isinstance(value, yaml.MappingNode):
            yield from _leaves(value, f"{prefix}{key_node.value}.")
        elif key_node.value != BASE_KEY:
            yield f"{prefix}{key_node.value}"


def _compose_with_bases(config_file: str, parents: tuple[str, ...] = ()) -> list[ComposedFile]:
    """Return a config file and then its bases: a file comes before those that it overrides."""
    named_by = f" (the _BASE_ of {parents[-1]})" if parents else ""
    if os.path.realpath(config_file) in map(os.path.realpath, parents):
        raise ValueError(f"_BASE_ leads in a circle: {' -> '.join((*parents, config_file))}")
    root = _compose(config_file, named_by)
    files = [(config_file, root)]
    for base in reversed(_base_names(config_file, root)):
        if "://" in base:
            raise ValueError(
                f"{config_file}: _BASE_ is the address {base}: download that file and name the copy"
            )
        path = os.path.join(os.path.dirname(config_file), os.path.expanduser(base))
        files += _compose_with_bases(path, (*parents, config_file))
        if len(files) > _MAX_FILES or len(parents) > _MAX_FILES:
            raise ValueError(f"{config_file}: _BASE_ leads to more than {_MAX_FILES} files")
    return files


def _compose(config_file: str, named_by: str) -> yaml.MappingNode:
    """Parse a config file without building objects."""
    if not PathManager.isfile(config_file):
        raise ValueError(f"config file {config_file}{named_by} does not exist")
    try:
        with PathManager.open(config_file, "r") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ValueError(f"config file {config_file}{named_by}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # Without the line itself: a _BASE_ may name any file of this machine.
        mark = getattr(error, "problem_mark", None)
        where = f": line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""
        raise ValueError(f"{config_file}{named_by} is not a YAML file{where}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{config_file}{named_by} holds no 'KEY: value' lines")
    return root


def _base_names(config_file: str, root: yaml.MappingNode) -> list[str]:
    base = next((value for key, value in root.value if key.value == BASE_KEY), None)
    if base is None:
        return []
    names = base.value if isinstance(base, yaml.SequenceNode) else [base]
    if not all(isinstance(name, yaml.ScalarNode) for name in names):
        line = base.start_mark.line + 1
        raise ValueError(f"{config_file}:{line}: _BASE_ takes a file name or a list of them")
    return [name.value for name in names]


def _wrong_keys(
    node: yaml.MappingNode, level: CfgNode, cfg: CfgNode, prefix: str = ""
) -> Iterator[str]:
    """Yield `line: problem` for each key of `node` that does not fit `level`, a part of `cfg`."""
    for key_node, value in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "[...]"
        if key == BASE_KEY and not prefix:
            continue
        line = key_node.start_mark.line + 1
        if key_node.tag == "tag:yaml.org,2002:merge":  # "<<: *anchor" inserts these keys
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _wrong_keys(merged, level, cfg, prefix)
        elif key == "VERSION" and not prefix and value.value != "2":
            yield f"{line}: VERSION is {value.value!r}; only Detectron2's format 2 is supported"
        elif key not in level:
            yield f"{line}: {_unknown(prefix + key, cfg)}"
        elif isinstance(level[key], CfgNode):
            if isinstance(value, yaml.MappingNode):
                yield from _wrong_keys(value, level[key], cfg, f"{prefix}{key}.")
            else:
                yield f"{line}: {prefix}{key} holds further keys and takes no value itself"


def _unknown(key: str, cfg: CfgNode) -> str:
    known = list(_dotted_keys(cfg))
    # The right name in the wrong section is a likelier mistake than a misspelt name.
    last = key.rpartition(".")[2]
    nearest = [k for k in known if k.rpartition(".")[2] == last]
    nearest = difflib.get_close_matches(key, nearest or known, n=1, cutoff=0.0 if nearest else 0.6)
    return f"unknown config key {one_line(key)}" + "".join(f"; did you mean {k}?" for k in nearest)


def _dotted_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, CfgNode):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _type_mismatch(error: Exception) -> tuple[str | None, str]:
    """Return the key that a failed merge names, or None, and a message about it."""
    text = str(error)
    found = re.search(
        r"<class '([^']*)'> vs\. <class '([^']*)'>\) with values \((.*) vs\. (.*)\) "
        r"for config key: (\S+)$",
        text,
        re.DOTALL,
    )
    if not found:
        return None, one_line(text)
    wanted, given, default, value, key = found.groups()
    if wanted.endswith("CfgNode"):
        return key, f"{key} holds further keys and takes no value itself"
    return (
        key,
        f"{key} takes a value of type {wanted}, such as {default}; got {given} {one_line(value)}",
    )


def _locate(key: str | None, files: Iterable[ComposedFile]) -> str | None:
    """Return `file:line` of the value that these files give to a dotted key."""
    for name, root in files:
        node: yaml.Node | None = root
        for part in key.split(".") if key else ():
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            node = next((value for k, value in pairs if k.value == part), None)
        if key and node is not None:
            return f"{name}:{node.start_mark.line + 1}"
    return None
