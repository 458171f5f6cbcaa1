"""The limit of a row is the model's, and hard only where the model has a table."""

from __future__ import annotations

import pytest

from rewarm.errors import UserError
from rewarm.tokens.positions import check_row_tokens, positions_of


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gpt2", "n_positions": 128},
        {"model_type": "opt", "max_position_embeddings": 128},
        {"model_type": "gpt_neo", "max_position_embeddings": 128},
    ],
)
def test_learned_positions_are_a_hard_limit(config):
    positions = positions_of(config)
    assert check_row_tokens(positions, 128) is None
    with pytest.raises(UserError, match=f"256 > 128 positions of {config['model_type']}"):
        check_row_tokens(positions, 256)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama", "max_position_embeddings": 128},
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "max_position_embeddings": 128}},
        {"model_type": "gptj", "n_positions": 128},
    ],
)
def test_rotary_positions_are_a_warning(config):
    positions = positions_of(config)
    assert check_row_tokens(positions, 128) is None
    assert "256" in (check_row_tokens(positions, 256) or "")


def test_a_model_without_a_limit_has_none():
    """Bloom's ALiBi has no table and no trained length in its config."""
    assert check_row_tokens(positions_of({"model_type": "bloom"}), 100_000) is None
