"""Each source's share of the tokens, out of the recipe's `mixture` and the sources' sizes."""

from __future__ import annotations

from collections.abc import Sequence

from rewarm.errors import UserError, did_you_mean
from rewarm.tokens.recipe import MixtureRecipe


def token_weights(roles: Sequence[str], within: Sequence[float], replay: float) -> tuple[float, ...]:
    """Each source's share of the tokens. within: share among the sources of its role. UserError: a share without text to take it from."""
    if replay > 0 and not any(w > 0 for w, role in zip(within, roles) if role == "replay"):
        raise UserError(
            f"a replay share of {replay:g} needs old text, and no source with `role: replay` has any",
            where="mixture.replay",
            fix="add a source with `role: replay`, or set mixture.replay: 0",
        )
    return tuple(w * (replay if role == "replay" else 1.0 - replay) for w, role in zip(within, roles))


def shares_within_roles(cfg: MixtureRecipe, names: Sequence[str], roles: Sequence[str], tokens: Sequence[int]) -> tuple[float, ...]:
    """Each source's share among those of its role, by size or by `mixture.weights`; a source without text has none."""
    wanted: list[float] = [float(n) for n in tokens]
    if cfg.weights != "by_tokens":
        given = cfg.weights
        for name in given:
            if name not in names:
                raise UserError(
                    f"no source is called `{name}`",
                    where="mixture.weights",
                    fix=did_you_mean(name, list(names)) or f"sources: {', '.join(names)}",
                )
        missing = [name for name in names if name not in given]
        if missing:
            raise UserError(
                f"no weight for: {', '.join(missing)}", where="mixture.weights", fix="give every source a number, 0 to leave it out"
            )
        wanted = [given[name] if n else 0.0 for name, n in zip(names, tokens)]
    sums = {role: sum(w for w, r in zip(wanted, roles) if r == role) for role in set(roles)}
    return tuple(w / sums[role] if sums[role] else 0.0 for w, role in zip(wanted, roles))
