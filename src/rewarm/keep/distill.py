"""Distillation from the frozen base on the replayed tokens: part of their loss is the divergence from what the base would have said.

A hard label says only that one token came next; the base's whole distribution says what it knew about all of them, so the same replay keeps
more (Learning without Forgetting, arXiv 1606.09282, on tokens of old text). The teacher reads old text only: there the extended tokenizer
gives the base's own ids, which the vocabulary's gate proves. Its logits are made chunk by chunk inside the loss, over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from rewarm.errors import UserError
from rewarm.keep.recipe import DistillRecipe
from rewarm.model.attention import bounds_of
from rewarm.model.batch import DeviceBatch, pick_rows
from rewarm.model.hooks import Context, Method, Targets, TeacherHead
from rewarm.model.load import Base, load_base


class Distill(Method):
    """Share `cfg.weight` of the loss of every replayed token is KL(base || model), nats a token; the rest is the hard label's.

    base_dir: the model before everything, with its own vocabulary. replay: numbers of the sources that are old text. From the first token
    of a document on that the base does not have, and where such a token is the label, the hard label alone counts.
    """

    name: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[str]] = frozenset({"replay"})

    def __init__(self, cfg: DistillRecipe, base_dir: Path, replay: Sequence[int]) -> None:
        if not replay:
            raise UserError(
                "distillation reads old text, and there is none in the mixture",
                where="keep.methods: distill",
                fix="add a source with `role: replay`, or leave the method out",
            )
        self._weight, self._base_dir, self._replay = cfg.weight, base_dir, tuple(replay)
        self._teacher: Base | None = None

    def prepare(self, ctx: Context) -> int:
        """Loads the teacher beside the model: bf16 on a GPU, fp32 elsewhere. Returns its bytes."""
        device = ctx.params[0].local.device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._teacher = load_base(self._base_dir, device, dtype)
        self._teacher.model.eval().requires_grad_(False)
        return sum(p.numel() * p.element_size() for p in self._teacher.model.parameters())

    def targets(self, ctx: Context, batch: DeviceBatch) -> Targets | None:
        """The base's last hidden states at the replay rows of this micro-batch; None where it has none."""
        assert self._teacher is not None, "prepare comes first"
        rows = [i for i, source in enumerate(batch.source.tolist()) if source in self._replay]
        if not rows:
            return None
        family = self._teacher.family
        picked = pick_rows(batch, rows)
        known = picked.ids < family.rows
        with torch.no_grad():
            ids = torch.where(known, picked.ids, 0)
            hidden = family.decoder(input_ids=ids, position_ids=picked.position_ids, use_cache=False, **bounds_of(picked)).last_hidden_state
        readable = _before_first_unknown(known.flatten(), picked.position_ids.flatten()) & (picked.labels.flatten() < family.rows)
        width = batch.ids.numel() // batch.rows
        at = (torch.tensor(rows)[:, None] * width + torch.arange(width)).flatten()
        weight = family.head.weight
        return TeacherHead(
            hidden=hidden.flatten(0, 1).to(weight.dtype), weight=weight, share=readable.float() * self._weight,
            bias=family.head.bias, scale=family.logit_scale, softcap=family.softcap, at=at,
        )  # fmt: skip


def _before_first_unknown(known: Tensor, position: Tensor) -> Tensor:
    """bool [M]: no unknown token at this place or before it in its piece. position: counts from 0 at every piece."""
    unknown = (~known).long().cumsum(0)
    start = torch.arange(len(known), device=known.device) - position
    before_piece = unknown[start] - (~known[start]).long()
    return unknown == before_piece
