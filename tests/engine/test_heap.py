"""Threads share few arenas of glibc's heap, unless the user says how many."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from scanside.engine.heap import ARENAS

ARENAS_USED = """
import ctypes, threading
from scanside.engine.heap import share_arenas

print("shared", {call})
glibc = ctypes.CDLL(None)
glibc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(12)

def hold():
    together.wait()
    assert glibc.malloc(ctypes.c_size_t(50_000))
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
glibc.malloc_stats()
"""


def arenas(call: str, **environment: str) -> tuple[bool, int]:
    """What `call` gave, and the arenas that twelve threads then use, in a process of its own."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    script = ARENAS_USED.format(call=call)
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**bare, **environment}
    )
    return "shared True" in ran.stdout, ran.stderr.count("Arena ")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_arenas_unless_the_user_says_how_many() -> None:
    alone = arenas("False")[1]
    assert alone > ARENAS
    assert arenas("share_arenas()") == (True, ARENAS)
    asked, used = arenas("share_arenas()", MALLOC_ARENA_MAX="5")
    assert not asked
    assert used == min(alone, 5)
