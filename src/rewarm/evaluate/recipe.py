"""How learning and forgetting are measured: `evaluate:` in a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rewarm.section import Section


class MeasuredText(Section):
    """A file that is only measured: never trained on, and with no say in any choice, so all of it is reported."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$")]
    """Its name in the results; not the name of a source."""
    path: Annotated[str, Field(min_length=1)]
    """A txt, jsonl (also .gz, .zst) or parquet file; a relative path starts from the recipe's folder."""
    role: Literal["new", "old"]
    """`new`: text the model should have learned. `old`: text it should have kept."""
    field: Annotated[str, Field(min_length=1)] = "text"
    """The field or column that holds the text."""


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

    texts: list[MeasuredText] = Field(default=[])
    """More texts to measure on, beside the documents held out of the sources: benchmark sets, or text of another kind than the replay.
    That training text does not repeat them is up to you; only the sources' own held-out text is checked (corpus.decontaminate)."""

    @model_validator(mode="after")
    def _stride_within_window(self) -> Self:
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride:,} is above window {self.window:,}: characters would be left out; lower stride")
        return self
