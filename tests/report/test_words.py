"""Sentences cut into tokens: every character is shown once, every token is counted once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewarm.report.words import Piece, cut_sentences, pieces, sentences, tokens_of


def test_tokens_that_share_a_character_are_one_piece_with_their_number():
    """Half a character cannot be shown: three byte tokens of one letter are that letter, three times."""
    assert pieces("aữb", [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]) == [Piece("a", 1), Piece("ữ", 3), Piece("b", 1)]


def test_a_token_over_one_and_a_half_characters_takes_the_next_along():
    assert pieces("xữy", [(0, 2), (1, 2), (2, 3)]) == [Piece("xữ", 2), Piece("y", 1)]


def test_tokens_without_characters_and_characters_without_tokens_stay_counted():
    """A begin mark spans nothing; a normaliser may drop a character."""
    assert pieces("ab", [(0, 0), (0, 1), (1, 2), (2, 2)]) == [Piece("a", 2), Piece("b", 2)]
    assert pieces(" a b ", [(1, 2), (3, 4)]) == [Piece(" a ", 1), Piece("b ", 1)]
    assert pieces("?", []) == [Piece("?", 0)] and pieces("", []) == []


@given(st.text(min_size=1, max_size=12), st.data())
def test_pieces_join_to_the_text_and_count_every_token(text, data):
    """Whatever the spans, as long as they run forward, nothing of the text is lost and no token is counted twice."""
    marks = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=12)))
    spans = list(pairwise(marks))
    cut = pieces(text, spans)
    assert "".join(piece.text for piece in cut) == text
    assert tokens_of(cut) == len(spans)


def test_both_tokenizers_cut_the_five_languages(tmp_path, files):
    """The report's sentences under a byte-level base: Korean takes three tokens a letter, and the text comes back whole."""
    base, new = (tmp_path / name for name in ("base.json", "new.json"))
    base.write_text(files["base-0123456789ab/model/tokenizer.json"], encoding="utf-8")
    new.write_text(files["vocab-0123456789ab/model/tokenizer.json"], encoding="utf-8")
    found = {cut.language: cut for cut in cut_sentences(base, new, sentences())}
    assert list(found) == ["vi", "zh", "ja", "ko", "en"]
    for cut in found.values():
        assert "".join(piece.text for piece in cut.before) == cut.text
        assert tokens_of(cut.before) <= len(cut.text.encode())
    assert tokens_of(found["en"].after) < tokens_of(found["en"].before)
    assert found["ko"].after is None, "not cut otherwise: shown once"
    assert found["ko"].before[0] == Piece("모", 3)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_base_tokenizer_that_is_gone_or_broken_gives_no_sentences(tmp_path, content):
    """The base may lie elsewhere by the time a report is made."""
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    assert cut_sentences(path, None, sentences()) == []
