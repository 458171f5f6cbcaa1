"""The base class of every part of a recipe: frozen, documented field by field, unknown names refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe. Each field's docstring says its unit, its default's reason and its effect."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False, allow_inf_nan=False)
