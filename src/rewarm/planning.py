"""How long a run is and what a step reads: pure decisions that `plan` prints and `run` follows."""

from __future__ import annotations

from dataclasses import dataclass

from rewarm.errors import UserError
from rewarm.recipe import Recipe
from rewarm.tokens.recipe import MixtureRecipe, TokensRecipe
from rewarm.tokens.shares import shares_within_roles
from rewarm.train.recipe import TrainRecipe

MOST_STEP_TOKENS = 524_288
TIMED_STEP_TOKENS = {"cpu": 1_024, "cuda": 65_536}
"""Step size where only `max_minutes` is known: small steps learn more (measured at 135M), a GPU needs 65k tokens to be busy."""
REPLAY_OTHER_LANGUAGE, REPLAY_SAME_LANGUAGE = 0.25, 0.05


@dataclass(frozen=True)
class Lengths:
    """Counts in tokens, rows and steps. `steps` and `planned_tokens` are None where only a measurement can tell (`train.max_minutes`)."""

    step_tokens: int
    batch_rows: int
    steps: int | None
    planned_tokens: int | None


def replay_share(cfg: MixtureRecipe, new_languages: list[set[str]], old_languages: list[set[str]]) -> tuple[float, str]:
    """(share of tokens read from replay sources, why).

    `auto`: 25 % where the new text is in another language than the old, 5 % where it is in the same one (arXiv 2403.08763), 0 without
    old text. Raises UserError where a share is asked for and no source has `role: replay`.
    """
    if not old_languages:
        if cfg.replay != "auto" and cfg.replay > 0:
            raise UserError(
                f"a replay share of {cfg.replay} needs old text, and no source has `role: replay`",
                where="mixture.replay",
                fix="add a source of text like what the base was trained on with `role: replay`, or set mixture.replay: 0",
            )
        return 0.0, "no source has `role: replay`"
    if cfg.replay != "auto":
        return float(cfg.replay), "set in the recipe"
    new, old = set().union(*new_languages), set().union(*old_languages)
    if new and old and new <= old:
        return REPLAY_SAME_LANGUAGE, "new and old text are in the same language"
    return REPLAY_OTHER_LANGUAGE, "the new text is in another language than the old" if new and old else "languages are not given"


def check_recipe(recipe: Recipe) -> None:
    """UserError for what the recipe alone shows will stop the run, said before any text is read: no new text, weights for other sources, a
    replay share without replay."""
    sources = recipe.corpus.sources
    if not any(s.role == "new" for s in sources):
        raise UserError("no source has `role: new`", where="corpus.sources", fix="say which text the model shall learn")
    old = [set(s.languages) for s in sources if s.role == "replay"]
    shares_within_roles(recipe.mixture, [s.name for s in sources], [s.role for s in sources], [1] * len(sources))
    replay_share(recipe.mixture, [set(s.languages) for s in sources if s.role == "new"], old)


def check_guard(recipe: Recipe) -> None:
    """UserError for a vocabulary that is to be guarded by old text, and a recipe without any."""
    old = any(source.role == "replay" for source in recipe.corpus.sources)
    if not old and recipe.vocab.extend is not False and recipe.vocab.tau != "off":
        raise UserError(
            "there is no old text (`role: replay`), so nothing can show that old text keeps its tokens",
            where="vocab.tau",
            fix="add a source with `role: replay`: text like what the base was trained on, such as Wikipedia (best: 20 MB);\n"
            "or set vocab.tau: off to go without that guarantee, or vocab.extend: false to keep the tokenizer",
        )


def lengths(train: TrainRecipe, tokens: TokensRecipe, new_tokens: int, replay: float, device: str) -> Lengths:
    """Step size, rows a step, steps and planned tokens.

    new_tokens: tokens of all new sources, one epoch. `train.tokens: auto` is one epoch of the new text at the mixture's share.
    A step is a whole number of rows, at least one; the planned tokens are a whole number of steps, at least one.
    """
    row = tokens.row_tokens
    planned: int | None
    if train.max_minutes is not None:
        planned = None
    elif train.tokens == "auto":
        planned = max(1, round(new_tokens / (1.0 - replay)))
    else:
        planned = int(train.tokens)
    if train.step_tokens != "auto":
        step = int(train.step_tokens)
    elif planned is None:
        step = TIMED_STEP_TOKENS["cuda" if device.startswith("cuda") else "cpu"]
    else:
        step = min(MOST_STEP_TOKENS, planned // 200)
    rows = max(1, step // row)
    steps = None if planned is None else max(1, round(planned / (rows * row)))
    return Lengths(rows * row, rows, steps, None if steps is None else steps * rows * row)
