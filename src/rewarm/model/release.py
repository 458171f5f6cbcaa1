"""Memory back to the system between the large things a process does one after another: training, then model after model measured."""

from __future__ import annotations

import ctypes
import gc

import torch


def release_memory() -> None:
    """Frees models that nothing refers to, and hands free memory back.

    A model lies in cycles of references, so it stays until the garbage collector comes round; and glibc keeps freed buffers in its heap,
    in pieces that a process of several gigabytes cannot always use again (a GPU's allocator likewise). Other C libraries have no
    `malloc_trim` and need none.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
