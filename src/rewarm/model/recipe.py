"""Which model a run starts from: `model:` in a recipe."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from rewarm.section import Section


class Rope(Section):
    """A longer context than the base has, for models with rotary positions; it must be trained on rows of that length."""

    context: PositiveInt
    """Tokens that the model can read afterwards, written to its configuration. Set `tokens.row_tokens` to as many, or near it."""
    type: Literal["yarn", "linear", "theta"] = "yarn"
    """How positions are stretched. `yarn`: slow channels only; `linear`: all of them; `theta`: a larger base of the angles, which programs
    without any scaling can read."""


class ModelRecipe(Section):
    """The base model: exactly one of `base` and `gguf`."""

    base: str | None = Field(default=None, min_length=1)
    """A Hugging Face folder with safetensors, or the name of a model on the hub (`owner/name`), which is then downloaded once."""
    gguf: str | None = Field(default=None, min_length=1)
    """A GGUF file; it is turned into a folder first. Its weights are as coarse as the file has them, and the model card says so."""
    rope: Rope | None = None
    """A longer context; absent, positions stay as they are."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.base is None) == (self.gguf is None):
            raise ValueError("set exactly one of base (a folder or a name on the hub) and gguf (a file)")
        return self
