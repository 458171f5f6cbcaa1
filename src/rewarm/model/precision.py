"""What the training computes in: fp32, or bf16 over fp32 weights where the processor has instructions for it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from rewarm.errors import UserError


@dataclass(frozen=True, slots=True)
class Precision:
    """mode: `mixed` keeps weights, gradients and moments in fp32 and multiplies in `compute`; why: for the log."""

    mode: Literal["fp32", "mixed"]
    compute: torch.dtype
    why: str

    def context(self, device: torch.device | str) -> AbstractContextManager[None]:
        """Autocast for one forward pass on this device, or nothing in fp32. Norms, softmax and the loss's sums stay fp32 in both."""
        if self.mode == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=self.compute)


def choose_precision(want: Literal["auto", "fp32", "mixed"], device: torch.device | str) -> Precision:
    """`auto`: mixed on CUDA, and on a CPU with avx512_bf16 or AMX; else fp32, because there bf16 is emulated and slower.

    ATEN_CPU_CAPABILITY=avx2 (or default) counts as a CPU without these instructions: it is how such a machine is tried out. UserError where
    `mixed` is asked of a GPU without bf16.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if want == "fp32":
            return Precision("fp32", torch.float32, "as the recipe says")
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            if want == "mixed":
                raise UserError("this GPU has no bf16 instructions", where="train.precision", fix="set train.precision: fp32")
            return Precision("fp32", torch.float32, "this GPU has no bf16 instructions")
        return Precision("mixed", torch.bfloat16, "bf16 on a GPU" if want == "auto" else "as the recipe says")
    if want == "auto":
        fast, why = cpu_has_bf16()
        return Precision("mixed", torch.bfloat16, why) if fast else Precision("fp32", torch.float32, why)
    return Precision(want, torch.float32 if want == "fp32" else torch.bfloat16, "as the recipe says")


def cpu_has_bf16() -> tuple[bool, str]:
    """Whether this CPU multiplies bf16 itself, and what says so."""
    limit = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    if limit in ("avx2", "default"):
        return False, f"ATEN_CPU_CAPABILITY={limit}"
    # `torch.cpu` has no public question for these two up to torch 2.13; `get_capabilities`, where it is, has the same names on all versions
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = [name for name in ("amx_bf16", "avx512_bf16") if found.get(name)]
    if not found:
        names = [name for name in ("amx_tile", "avx512_bf16") if getattr(torch.cpu, f"_is_{name}_supported")()]
    return (True, f"this CPU has {names[0]}") if names else (False, "this CPU has no bf16 instructions")
