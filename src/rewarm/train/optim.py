"""AdamW in one pass, and rows of a tensor that move at a rate of their own.

New vocabulary rows share a tensor with the old ones, so no parameter group can give them another rate, and Adam undoes any factor on the
gradient. So the **update** is scaled, after the optimiser's step: `p = old + S * (p - old)`, on the rows with S != 1 only. One mechanism
for new rows (S = 8), rows of padding (S = 0: their bits stay) and the masks of a method against forgetting. It fits every optimiser.

Clipping goes through the fused kernel's `grad_scale` and skipping through its `found_inf`, as mixed precision does: the gradient is not
read a second time, and on a GPU nothing waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewarm.model.family import Family
from rewarm.model.hooks import Param
from rewarm.train.recipe import TrainRecipe


def parameters_by_kind(family: Family, model: nn.Module, new_rows: tuple[int, int] | None) -> list[Param]:
    """Every trainable parameter once, by its first name, with its kind.

    `embedding`: of any embedding module, learned positions too; `head`: an output matrix of its own; `vector`: norms, biases and all that
    has one axis; `matrix`: the rest. new_rows: (first, past the last) on the vocabulary's axis; learned positions have none."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    vocabulary = {id(family.embedding.weight), id(family.head.weight)}
    out = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = parameter is family.head.weight
        kind = "embedding" if id(parameter) in embeddings else "head" if is_head else "vector" if parameter.ndim < 2 else "matrix"
        out.append(Param(name, parameter, 0, kind, new_rows if id(parameter) in vocabulary else None))
    return out


def param_groups(params: Sequence[Param], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, all else without. Embeddings and head are without it because decay would shrink, step by
    step, the rows of words that the new text does not use."""
    decayed = [p.local for p in params if p.kind == "matrix"]
    free = [p.local for p in params if p.kind != "matrix"]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(params: Sequence[Param], cfg: TrainRecipe, lr: float) -> torch.optim.AdamW:
    """Fused AdamW over the groups, with fresh moments."""
    return torch.optim.AdamW(param_groups(params, cfg.weight_decay), lr=lr, betas=cfg.betas, eps=cfg.eps, fused=True)


@dataclass(frozen=True, slots=True)
class RowScale:
    """Factors on the update of the rows first .. first+len(factors)-1 of a parameter; factors: fp32, shape [rows, 1, ...] or of those
    rows."""

    parameter: Tensor
    first: int
    factors: Tensor

    def rows(self) -> Tensor:
        """Those rows of the parameter, as a view."""
        return self.parameter.detach()[self.first : self.first + len(self.factors)]


def row_scales(
    params: Iterable[Param], new_rows_factor: float, true_vocab: int | None, methods: Mapping[str, Tensor] | None = None
) -> list[RowScale]:
    """The scales of a run: new rows by their factor, padding rows (>= true_vocab) by 0, times what the methods ask for.

    methods: update scales by parameter name, of the parameter's whole shape; None or an absent name: 1. Parameters with 1 everywhere are
    left out, and they take the plain optimiser's update, bit for bit."""
    scales = []
    for param in params:
        weight = param.local
        first, factors = len(weight), None
        if param.kind in ("embedding", "head") and _has_vocabulary_rows(param, true_vocab):
            first, factors = _vocabulary_factors(param, new_rows_factor, true_vocab)
        asked = methods.get(param.name) if methods else None
        if asked is not None:
            whole = torch.ones((len(weight), *[1] * (weight.ndim - 1)), dtype=torch.float32, device=weight.device)
            if factors is not None:
                whole[first:] = factors
            scales.append(RowScale(weight, 0, whole * asked))
        elif factors is not None and bool((factors != 1).any()):
            scales.append(RowScale(weight, first, factors))
    return scales


def _has_vocabulary_rows(param: Param, true_vocab: int | None) -> bool:
    return param.new_rows is not None or (true_vocab is not None and len(param.local) > true_vocab)


def _vocabulary_factors(param: Param, new_rows_factor: float, true_vocab: int | None) -> tuple[int, Tensor]:
    """(first row, factors to the last row): one contiguous piece, as new rows and padding stand at the end."""
    rows = len(param.local)
    end = rows if true_vocab is None else true_vocab
    new_first, new_end = param.new_rows or (end, end)
    first = min(new_first, end)
    factors = torch.ones((rows - first, *[1] * (param.local.ndim - 1)), dtype=torch.float32, device=param.local.device)
    factors[new_first - first : new_end - first] = new_rows_factor
    factors[end - first :] = 0.0
    return first, factors


@torch.no_grad()
def scaled_step(optimizer: torch.optim.Optimizer, scales: Sequence[RowScale]) -> None:
    """One step of the optimiser, after which the scaled rows stand at old + S * (new - old).

    Where S is 0, or the optimiser did not move, the bits stay. Without scales this is `optimizer.step()`.
    """
    before = [scale.rows().clone() for scale in scales]
    optimizer.step()
    for scale, old in zip(scales, before, strict=True):
        rows = scale.rows()
        move = (rows - old).mul_(scale.factors)
        rows.copy_(torch.where(move == 0, old, old + move))  # old + 0.0 would turn -0.0 into 0.0


@torch.no_grad()
def clipped_step(
    optimizer: torch.optim.Optimizer, scales: Sequence[RowScale], params: Sequence[Param], loss: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """A step with the gradient's global norm held at `clip`, left out if the loss or the norm is not finite.

    Returns (norm before clipping, 1.0 if the step was left out else 0.0), fp32 on the device: reading them is the caller's choice. A step
    left out moves neither weights nor moments nor the optimiser's step count.
    """
    norm = torch.nn.utils.get_total_norm([p.local.grad for p in params if p.local.grad is not None]).float()
    bad = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
    optimizer.grad_scale = torch.clamp(norm / clip, min=1.0)
    optimizer.found_inf = bad
    scaled_step(optimizer, scales)
    return norm, bad
