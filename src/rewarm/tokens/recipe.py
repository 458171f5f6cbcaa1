"""The recipe's `tokens` and `mixture`: how documents become rows, and how much of each text a step reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator

from rewarm.section import Section


class TokensRecipe(Section):
    """How documents become rows of tokens: `tokens:` in a recipe."""

    row_tokens: Annotated[int, Field(ge=16, le=1_048_576)] = 4096
    """Tokens of a row, the longest context that training sees. A longer document is cut, each cut overlapping by one token. At most the
    model's positions where it has learned ones (GPT-2, OPT); more than it was trained on where they rotate is allowed and said."""
    packing: Literal["best_fit", "chop"] = "best_fit"
    """How documents fill rows. `best_fit` cuts only documents longer than a row and fills over 99 % of most texts; `chop` lays them end to
    end and cuts at every row, as most tools do, which cuts up to half of the documents: for comparisons. Neither lets a document see
    another one."""
    eos: str = "auto"
    """The token that ends a document. `auto`: the tokenizer's own end token, unless that ends a chat turn (as `<|im_end|>`) and it also
    has one for documents (`<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`). Another value is the text of a token."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which documents share a row."""


class MaxEpochs(Section):
    """How often a text may be read before a run warns."""

    new: PositiveFloat = 4.0
    """Epochs of a new text. Default 4: up to about four, repeated text teaches nearly as much as fresh text (arXiv 2305.16264)."""
    replay: PositiveFloat = 4.0
    """Epochs of an old text."""


class MixtureRecipe(Section):
    """How much of each text a step reads: `mixture:` in a recipe. All shares are shares of tokens."""

    replay: Literal["auto"] | Annotated[float, Field(ge=0, le=0.95)] = "auto"
    """Share of the tokens that comes from sources with `role: replay`, in place of new text. `auto`: 0.25 where the new text is in another
    language than the old, 0.05 where it is in the same, 0 without old text (arXiv 2403.08763)."""
    weights: Literal["by_tokens"] | dict[str, NonNegativeFloat] = "by_tokens"
    """How the sources of one role share its part. `by_tokens`: as large as they are, so all end an epoch together; or a number for every
    source by name, of which only the ratio counts, among the new ones and among the old ones."""
    max_epochs: MaxEpochs = MaxEpochs()
    """A plan that reads a text more often than this says so, before training and in the report."""

    @field_validator("weights")
    @classmethod
    def _names_are_given(cls, weights: str | dict[str, float]) -> str | dict[str, float]:
        if not weights:
            raise ValueError("weights: give a number for every source, or by_tokens")
        return weights
