"""The command uses freed memory again."""

import subprocess
import sys

import pytest

from actionrec.memory import M_MMAP_MAX

FAULTS = """
import resource, sys
if "keep" in sys.argv:
    from actionrec.memory import keep_freed_memory
    keep_freed_memory()
import torch
for _ in range(12):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_tensor_takes_the_pages_of_the_one_before():
    # 64 MiB are 16,384 pages.
    assert faults("keep") < 1000
    if faults() < 10_000:
        pytest.skip("this system's malloc keeps its memory anyway")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_the_command_keeps_memory_and_the_library_leaves_malloc_alone():
    program = """
import ctypes, sys
told = []
class Library:
    def mallopt(self, option, value):
        told.append(option)
real = ctypes.CDLL
ctypes.CDLL = lambda name, *more, **options: (
    real(name, *more, **options) if name else Library()
)
import actionrec.models.inference, actionrec.__main__
assert not told
sys.argv = ["actionrec", "--version"]
try:
    actionrec.__main__.main()
except SystemExit:
    pass
print(told)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert str(M_MMAP_MAX) in done.stdout.splitlines()[-1]
