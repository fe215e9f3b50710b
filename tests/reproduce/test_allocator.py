"""The allocator: freed memory stays with the process where the C library is glibc."""

import platform
import subprocess
import sys

import pytest

from reproduce.allocator import keep_freed_memory

IS_GLIBC = platform.libc_ver()[0] == "glibc"
PAGE_FAULTS = """
import resource
import torch
from reproduce.allocator import keep_freed_memory
def work():
    buffers = [torch.empty(5 * 2**20).fill_(1.0) for _ in range(4)]
keep_freed_memory()
for _ in range(5):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_it_says_whether_the_c_library_took_the_settings() -> None:
    assert keep_freed_memory() == IS_GLIBC


@pytest.mark.skipif(not IS_GLIBC, reason="only glibc has these settings")
def test_memory_that_was_freed_is_not_fetched_page_by_page_again() -> None:
    faults = int(subprocess.check_output([sys.executable, "-c", PAGE_FAULTS], text=True))
    # A round takes 80 MiB, 20,480 pages, and by default most processes fetch them every round.
    assert faults < 1000
