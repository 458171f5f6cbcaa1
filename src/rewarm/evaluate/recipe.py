"""How learning and forgetting are measured: `evaluate:` in a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rewarm.section import Section


class EvaluateRecipe(Section):
    """The protocol of all measurements of a run, probes and the step back included: one for every model that is compared."""

    window: Annotated[int, Field(ge=2, le=1_000_000)] = 4096
    """Characters of the first window of a document. In characters, not tokens, so that two tokenizers see the same text; halved until the
    worse tokenizer's longest window fits the smaller model's positions, and the result says so."""
    stride: PositiveInt = 2048
    """Characters that each later window scores; it has `window - stride` characters before them as context. A small stride gives more
    context and takes longer."""
    prefix: Annotated[str, Field(min_length=1)] = "auto"
    """The token before every window, the same for all models: `bos`, `eos`, `none`, or the text of a token. `auto`: the one the base's
    tokenizer itself puts there, or else the one under which the base does best on a few kilobytes of the first old text."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of the products while scoring, the same for all models; weights and sums are fp32 in either. `auto`: bf16 on a GPU and on a CPU
    with bf16 instructions, else fp32."""
    max_mb: Literal["auto"] | PositiveFloat = "auto"
    """Megabytes scored of each text, documents in the order of a hash. `auto`: 0.2 on a CPU, 1 on a GPU. More text, narrower intervals."""
    samples: NonNegativeInt = 4
    """Openings of held-out documents that the base and the final model each continue, side by side; 0 for none."""
    sample_tokens: PositiveInt = 48
    """New tokens of each sample."""

    @model_validator(mode="after")
    def _stride_within_window(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride:,} is above window {self.window:,}: characters would be left out; lower stride")
        return self
