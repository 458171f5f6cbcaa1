"""Names to lazy `module:Class` targets: every choice in one place, only the chosen one imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rewarm.errors import UserError, did_you_mean


class Registry:
    """`Registry("keep.method", distill="rewarm.keep.distill:Distill")`; `get` imports and returns the target."""

    def __init__(self, field: str, **targets: str) -> None:
        self.field = field
        self._targets = targets

    def names(self) -> list[str]:
        return sorted(self._targets)

    def get(self, name: str) -> Any:
        """The class or function behind `name`; UserError with the nearest name if there is none."""
        if name not in self._targets:
            raise UserError(
                f"unknown name `{name}`; known: {', '.join(self.names()) or 'none'}",
                where=self.field,
                fix=did_you_mean(name, self.names()),
            )
        module, _, attribute = self._targets[name].partition(":")
        return getattr(import_module(module), attribute)
