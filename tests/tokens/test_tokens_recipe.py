"""Limits of the recipe's fields."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rewarm.tokens.recipe import MixtureRecipe, TokensRecipe


@pytest.mark.parametrize("changes", [{"row_tokens": 8}, {"row_tokens": 2**21}, {"packing": "first_fit"}, {"seed": -1}, {"row": 64}])
def test_tokens_outside_their_limits_are_refused(changes):
    with pytest.raises(ValidationError):
        TokensRecipe(**changes)


@pytest.mark.parametrize(
    "changes", [{"replay": 0.96}, {"replay": -0.1}, {"replay": "some"}, {"weights": {}}, {"weights": {"a": -1}}, {"max_epochs": {"new": 0}}]
)
def test_mixtures_outside_their_limits_are_refused(changes):
    with pytest.raises(ValidationError):
        MixtureRecipe(**changes)


def test_what_a_recipe_says_is_what_is_read():
    mixture = MixtureRecipe(replay=0.1, weights={"law": 2}, max_epochs={"new": 8})
    assert (mixture.replay, mixture.weights, mixture.max_epochs.new, mixture.max_epochs.replay) == (0.1, {"law": 2.0}, 8, 4)
