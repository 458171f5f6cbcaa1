"""How the finished model is handed over: `export:` in a recipe."""

from __future__ import annotations

from pydantic import Field

from rewarm.section import Section


class ExportRecipe(Section):
    """The exported folder."""

    licence: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,63}$")
    """Licence of the exported model, as an SPDX name (`apache-2.0`, `cc-by-sa-4.0`). Default: none, and the model card says that the base's
    and the texts' licences must be looked at first: only you can know which of them bind your model."""
