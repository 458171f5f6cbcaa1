"""Mixtures of experts: where their routers are, the loss that keeps experts in use, and which parts of a layer can be compiled.

The formula and the coefficient of the balance loss are the family's own, out of transformers. What its router said is noted by hooks of
ours: transformers' own recording reads a context variable, which no compiler follows, from every attention module of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rewarm.model.batch import IGNORE, DeviceBatch


def has_experts(module: nn.Module) -> bool:
    """Experts are stacked: weights of three axes, the first one the expert."""
    return any(parameter.ndim == 3 for parameter in module.parameters())


def compiled_parts(layer: nn.Module) -> list[nn.Module]:
    """What of a decoder layer is compiled as one graph: all of it, or with experts its other parts, attention and norms.

    Experts stay as they are: which rows go where is known only when the router has spoken, and no kernel of theirs compiles whole.
    """
    return [child for child in layer.children() if not has_experts(child)] if has_experts(layer) else [layer]


class Balance:
    """The balance loss of one model. None of it is there for dense models and for families that balance without a loss (DeepSeek-V3)."""

    def __init__(self, model: PreTrainedModel, formula: Callable[..., Tensor], coefficient: float) -> None:
        self.coefficient = coefficient
        self._formula, self._experts, self._chosen = formula, int(model.num_experts), int(model.num_experts_per_tok)
        self._routers = _routers(model)

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """Inside, every forward pass adds the logits [N, experts] of its routers, layer after layer, to the list that this gives."""
        noted: list[Tensor] = []

        def hook(index: int) -> Callable[..., None]:
            def note(_module: nn.Module, _inputs: object, output: Any) -> None:
                noted.append(output[index] if isinstance(output, tuple) else output)

            return note

        handles = [router.register_forward_hook(hook(index)) for router, index in self._routers]
        try:
            yield noted
        finally:
            for handle in handles:
                handle.remove()

    def loss(self, logits: list[Tensor], batch: DeviceBatch) -> Tensor:
        """The family's balance loss over the tokens of this micro-batch, padding left out, times its labels.

        So it is a sum over labels as the loss is, and only its own value depends on the micro-batch size: it is not linear in the tokens.
        """
        value = self._formula(tuple(logits), self._experts, self._chosen, _real(batch)[None])
        return self.coefficient * value * (batch.labels != IGNORE).sum()


def balance_of(model: PreTrainedModel) -> Balance | None:
    """By what transformers' classes have in common: a function beside the model, a coefficient in it, routers that are told of."""
    formula = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    coefficient = getattr(model, "router_aux_loss_coef", None)
    if formula is None or not coefficient or not _routers(model):
        return None
    return Balance(model, formula, float(coefficient))


def _routers(model: PreTrainedModel) -> list[tuple[nn.Module, int]]:
    """(router, place of its logits in what it returns), in the order of the layers: from what transformers itself would record."""
    told: dict[str, Any] = getattr(model.base_model, "_can_record_outputs", None) or {}
    recorder: Any = told.get("router_logits")
    if not hasattr(recorder, "target_class"):
        return []
    return [(module, recorder.index) for module in model.base_model.modules() if isinstance(module, recorder.target_class)]


def _real(batch: DeviceBatch) -> Tensor:
    """bool [N]: tokens of pieces that have a label; the others are padding. All of them where no piece has one, so nothing becomes 0/0."""
    labels = batch.labels.flatten()
    lengths = torch.tensor(batch.lengths, device=labels.device)
    piece = torch.repeat_interleave(torch.arange(len(lengths), device=labels.device), lengths, output_size=len(labels))
    counted = torch.zeros(len(lengths), device=labels.device).index_add_(0, piece, (labels != IGNORE).float())
    real = counted[piece] > 0
    return real | ~real.any()
