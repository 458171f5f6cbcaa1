"""What is done against forgetting: `keep:` in a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm.section import Section

Alpha = Annotated[float, Field(gt=0.0, le=1.0)]


class DistillRecipe(Section):
    """How the frozen base teaches on old text, where `keep.methods` has `distill`."""

    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of a replayed token's loss that is the divergence from the base's distribution; the rest is the next token itself. 0.5 kept
    more and learned more than 0 at 135M."""


class KeepRecipe(Section):
    """How the model keeps what it knew, beside replay (see `mixture`)."""

    mixback: Literal["auto", "off"] | Alpha = "auto"
    """Mixes the trained weights with those training began with: alpha of the way from start to end. `auto`: the largest of 1, 0.9 and 0.8
    at which no old text's control half got worse than under the base; without old text, 1. `off` is 1. A number: that alpha, nothing
    scored."""
    methods: list[Literal["distill"]] = Field(default=[])
    """Methods that take part in the training. `distill`: the frozen base teaches on the replayed tokens; costs a second copy of the base
    in memory (16 bit on a GPU) and a third of the replay share in time."""
    distill: DistillRecipe = DistillRecipe()
    """Settings of `distill`."""
