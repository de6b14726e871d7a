"""What the self tests share: the variables, a tally, and the script that steers the brokers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import traceback
import uuid
from typing import Callable, Iterator

from common import PREFIX

# How many messages go through a kill -9, how large a large one is.
MANY = 300
LARGE = 12 * 1024 * 1024


def var(name: str) -> str:
    return os.environ[PREFIX + name]


def steer(*arguments: str) -> None:
    """Calls tests/brokers, as a test would."""
    subprocess.run([sys.executable, var("BROKERS"), *arguments], check=True, stdout=subprocess.DEVNULL)


def fresh(name: str) -> str:
    """A name that nothing else in this run has."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


class Checks:
    """Prints a line per check and counts."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    @contextlib.contextmanager
    def check(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        except Exception:
            self.failed += 1
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        else:
            self.passed += 1
            print(f"ok     {name:<60} {time.monotonic() - begun:5.1f} s", flush=True)


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
