"""Model, head and loss as one module: a micro-batch in, a sum of nats out.

The decoder is the family's, unchanged; only the head is ours, so that logits never exist as a whole. The sum is divided by the labels of
the whole step outside, so loss and update depend neither on the micro-batch size nor on the number of ranks.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rewarm.model.attention import bounds_of
from rewarm.model.batch import IGNORE, DeviceBatch
from rewarm.model.experts import balance_of
from rewarm.model.family import Family
from rewarm.model.hooks import Targets
from rewarm.model.linear_loss import linear_cross_entropy, linear_cross_entropy_reference

__all__ = ["CausalLMLoss", "LossOut", "linear_cross_entropy", "linear_cross_entropy_reference"]


HEAD_ROWS = 16
"""The head runs on a multiple of so many tokens: for every number of them oneDNN would keep programs of its own (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class LossOut:
    """loss_sum: nats, a sum over the micro-batch's labels, with gradient. nll fp32, of the labels' shape, without gradient, 0 where a label
    counts nothing. aux: with gradient, what a mixture of experts adds for balance, times the labels; None for dense models.
    """

    loss_sum: Tensor
    nll: Tensor
    aux: Tensor | None = None

    @property
    def total(self) -> Tensor:
        """What is divided by `n_valid` and differentiated."""
        return self.loss_sum if self.aux is None else self.loss_sum + self.aux


class CausalLMLoss(nn.Module):
    """`model` with its loss. true_vocab: rows of the head from here on are padding (probability 0, gradient 0); None = there are none."""

    def __init__(self, model: PreTrainedModel, family: Family, true_vocab: int | None = None, chunk: int | None = None) -> None:
        super().__init__()
        self.hf = model
        self.family = family
        self.valid_rows = None if true_vocab in (None, family.rows) else true_vocab
        self.chunk = chunk
        self.balance = balance_of(model)

    def hidden(self, batch: DeviceBatch) -> Tensor:
        """The decoder's last hidden states, of the labels' shape and D. The pieces do not see each other."""
        extra = {"output_router_logits": False} if self.balance else {}  # a configuration may ask for them; `balance` listens itself
        inputs = {"input_ids": batch.ids, "position_ids": batch.position_ids, "use_cache": False}
        return self.family.decoder(**inputs, **bounds_of(batch), **extra).last_hidden_state

    def forward(self, batch: DeviceBatch, targets: Targets | None = None) -> LossOut:
        """Sum of the loss over the micro-batch's labels. targets: a teacher, its tokens counted as in `labels.flatten()`."""
        with ExitStack() as stack:
            routed = stack.enter_context(self.balance.listening()) if self.balance else []
            hidden = self.hidden(batch).flatten(0, 1)
        labels = batch.labels.flatten()
        weight = None if batch.weight is None else batch.weight.flatten()
        # no head for what has no label: padding, prompts, ends. Not on a GPU: the number of rows would not be constant.
        kept = _labelled(labels) if hidden.device.type == "cpu" and targets is None else None
        if kept is not None:
            hidden, labels = hidden[kept], labels[kept]
            weight = None if weight is None else weight[kept]
        loss_sum, nll = linear_cross_entropy(
            hidden,
            self.family.head.weight,
            labels,
            bias=self.family.head.bias,
            weight=weight,
            scale=self.family.logit_scale,
            softcap=self.family.softcap,
            valid_rows=self.valid_rows,
            targets=targets,
            chunk=self.chunk,
        )
        if kept is not None:
            nll = nll.new_zeros(batch.labels.numel()).index_copy_(0, kept, nll)
        aux = self.balance.loss(routed, batch) if self.balance else None
        return LossOut(loss_sum, nll.view(batch.labels.shape), aux)


def _labelled(labels: Tensor) -> Tensor | None:
    """Where labels count, and enough places where they do not that there are a multiple of `HEAD_ROWS`; None for all places."""
    counts = labels != IGNORE
    places = counts.nonzero()[:, 0]
    more = -len(places) % HEAD_ROWS
    if len(places) + more >= len(labels):
        return None
    return torch.cat([places, (~counts).nonzero()[:more, 0]])
