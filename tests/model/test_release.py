"""Memory goes back to the system when a model is done with."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import pytest
import torch

from rewarm.model.release import release_memory


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_buffers_between_live_ones_go_back():
    """What training leaves: 1.5 GiB of free heap under a few live tensors, on top of which evaluation took its own.

    Measured from before they are freed: after other tests the live ones may lie in older holes, and then glibc gives some back itself.
    """
    release_memory()
    freed, kept = [], []
    for _ in range(2000):
        freed.append(torch.ones(25_000))  # 100 KB: below the size for which glibc asks the system each time
        kept.append(torch.ones(16))
    before = resident_mib()
    freed.clear()
    gc.collect()
    release_memory()
    assert before - resident_mib() > 100
