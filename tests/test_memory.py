"""Large blocks are reused: the system is not asked for the same pages again and again."""

import json
import os
import subprocess
import sys

import pytest

FAULTS = """
import json, resource
import numpy as np
from alertclip.memory import keep_freed_memory
kept = {call}
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**23)  # 64 MB, 16,384 pages
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def page_faults(call: str, **variables: str) -> tuple[bool, int]:
    tuned = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
    clean = {k: v for k, v in os.environ.items() if k not in tuned}
    command = [sys.executable, "-c", FAULTS.format(call=call)]
    done = subprocess.run(
        command, env=clean | variables, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(done.stdout))


def test_freed_blocks_are_used_again() -> None:
    kept, faults = page_faults("keep_freed_memory()")
    if not kept:
        pytest.skip("malloc here is not glibc's")
    assert faults < 0.1 * page_faults("False")[1]


def test_the_environment_has_the_last_word() -> None:
    assert not page_faults("keep_freed_memory()", MALLOC_MMAP_MAX_="10")[0]
