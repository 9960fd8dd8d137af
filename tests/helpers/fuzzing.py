"""Feed many damaged inputs to a reader, in a process of its own, so that a crash names its input.

Everything is drawn from the seed of a case, so a case that fails can be run again alone.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from typing import Any

SECONDS_PER_CASE = 10.0
SECONDS_TO_START = 90.0

# What strangers write where a number, a text, a list or an object belongs.
HOSTILE_VALUES = (
    None, True, False, "", "1", "\ud800", "\0", "../../etc/passwd", -1, 0, 1, 1.5, -0.0, 2**31,
    2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1, 10**30, 10**400, -(10**30), 4e8, 1e19, 1e308,
    float("nan"), float("inf"), -float("inf"), [], {}, [[]], [None], [1, 2], [1, "2"], {"a": 1},
    [2**62, 2**62, 2**62, 2**62], "o" * 40, "0" * 300, "\u00e9",
)  # fmt: skip


def cases(default: int = 300) -> int:
    """Return how many cases to try: the environment variable FUZZ_CASES, or `default`."""
    return int(os.environ.get("FUZZ_CASES", default))


def mutated_json(value: Any, rng: random.Random) -> Any:
    """Return a copy of a JSON value in which one to three places are replaced or removed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        containers = [c for c in _containers(value) if c]
        if not containers:
            break
        container = rng.choice(containers)
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key, action = rng.choice(keys), rng.random()
        if action < 0.1:
            del container[key]
        elif action < 0.2 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif action < 0.3 and isinstance(container[key], (int, float)):
            container[key] *= rng.choice([-1, 2, 1000, 10**12])
        elif action < 0.4 and isinstance(container[key], str):
            damaged = mutated_bytes(container[key].encode("utf-8", "replace"), rng)
            container[key] = damaged.decode("latin-1")
        else:
            container[key] = copy.deepcopy(rng.choice(HOSTILE_VALUES))
    return value


def _containers(value: Any) -> list[Any]:
    """Return all lists and dicts in a JSON value, itself included."""
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(found for item in inner for found in _containers(item))]


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes of which a few are changed, or which are cut off, repeated or extended."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place, action = rng.randrange(len(changed) + 1), rng.random()
        if action < 0.6 and place < len(changed):
            changed[place] = rng.randrange(256)
        elif action < 0.7:
            del changed[place:]
        elif action < 0.85:
            end = place + rng.randint(1, 16)
            changed[place:place] = changed[place:end] * rng.choice([1, 1, 100])
        else:
            changed[place:place] = rng.randbytes(rng.randint(1, 8))
    return bytes(changed)


def one_line(error: object, path: object) -> bool:
    """Return whether an error is one line that is short, can be printed, and names `path`."""
    text = str(error)  # which may hold a path as long as the system allows
    text.encode()
    return len(text.splitlines()) == 1 and len(text) < 5000 and str(path) in text


def run_cases(check: Callable[[int], object], number: int, first: int = 0) -> None:
    """Call ``check(seed)`` for `number` seeds in a new process.

    Args:
        check: a function of a module, or a `functools.partial` of one.
        number: how many seeds.
        first: the first seed.

    Raises:
        AssertionError: a case raised, crashed the process or took more than `SECONDS_PER_CASE`.
    """
    # Forked processes can hang in libraries whose threads ran before.
    context = multiprocessing.get_context("spawn")
    current = context.Value("q", -1)
    process = context.Process(target=_work, args=(check, first, number, current), daemon=True)
    process.start()
    seed, since = -1, time.monotonic() + SECONDS_TO_START
    while process.is_alive():
        process.join(0.1)
        if current.value != seed:
            seed, since = current.value, time.monotonic()
        elif time.monotonic() - since > SECONDS_PER_CASE:
            process.kill()
            process.join()
            raise AssertionError(f"the case of seed {seed} takes over {SECONDS_PER_CASE} s")
    assert process.exitcode == 0, f"the case of seed {current.value} ends with {process.exitcode}"


def _work(check: Callable[[int], object], first: int, number: int, current: Any) -> None:
    for seed in range(first, first + number):
        current.value = seed
        check(seed)
    os._exit(0)  # unloading torch can take longer than a case
