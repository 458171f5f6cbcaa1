"""What is done against forgetting: `keep:` in a recipe."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rewarm.section import Section

Alpha = Annotated[float, Field(gt=0.0, le=1.0)]


class KeepRecipe(Section):
    """How the model keeps what it knew, beside replay (see `mixture`)."""

    mixback: Literal["auto", "off"] | Alpha = "auto"
    """Mixes the trained weights with those training began with: alpha of the way from start to end. `auto`: the largest of 1, 0.9 and 0.8
    at which no old text's control half got worse than under the base; without old text, 1. `off` is 1. A number: that alpha, nothing
    scored."""
