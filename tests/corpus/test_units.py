"""The fast arrays say what the plain definitions say: units, identity, n-grams, contamination."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarm.corpus import units as units_module
from rewarm.corpus.decontaminate import build_index, hits, hits_reference, passage, single_length
from rewarm.corpus.units import content_hashes, fold, ngrams, ngrams_reference, scan, units_reference

LETTERS = st.text(st.sampled_from("abAếĐ đ1 .,\n-か漢カー가ب\u0301İß👩\U000e0001"), max_size=60)


def words(text: str) -> list[str]:
    return ["".join(map(fold, text[a:b])) for a, b in units_reference(text)]


def identity(text: str) -> tuple[int, int]:
    hi, lo = content_hashes(scan([text]), [text])[0].tolist()
    return hi, lo


def test_a_unit_is_a_syllable_a_number_or_one_han_or_kana_character():
    """The definition on real text, so that a change of the tables is seen."""
    assert words("Điều 12: Người lao-động, 2.5%!") == ["điều", "12", "người", "lao", "động", "2", "5"]
    assert words("春はABC曙カ") == ["春", "は", "abc", "曙", "カ"]
    assert words("안녕하세요 친구") == ["안녕하세요", "친구"]
    assert words("हिन्दी") == ["हिन्दी"]


@given(st.lists(LETTERS, max_size=6))
@settings(max_examples=150)
def test_scan_finds_the_units_of_the_definition(texts):
    """Same number, same equalities: two units have one hash exactly if they are the same folded string."""
    found = scan(texts)
    expected = [words(text) for text in texts]
    assert np.diff(found.ends, prepend=0).tolist() == [len(units) for units in expected]
    flat = [unit for units in expected for unit in units]
    assert len(set(found.hash.tolist())) == len(set(flat)) == len(set(zip(found.hash.tolist(), flat)))


@given(LETTERS, LETTERS)
def test_identity_is_equality_of_the_units(a, b):
    """Exact duplicates are found by this; a text without any unit is only equal to itself."""
    same = words(a) == words(b) if words(a) or words(b) else a == b
    assert (identity(a) == identity(b)) == same


def test_case_punctuation_and_spaces_hide_nothing_digits_and_diacritics_matter():
    """Two tables with other numbers are two documents; so are words that differ by one tone."""
    text = "Người lao động được nghỉ 12 ngày (mười hai)."
    assert identity(text) == identity("NGƯỜI   lao động,\nđược nghỉ: 12 ngày – mười hai")
    assert identity(text) != identity(text.replace("12", "13"))
    assert identity(text) != identity(text.replace("nghỉ", "nghĩ"))


def test_anagrams_have_different_hashes():
    """A sum of characters without their place would join them."""
    found = scan(["abc acb bac bca cab cba aab aba baa"])
    assert len(set(found.hash.tolist())) == 9


def test_long_documents_are_scanned_in_pieces_with_the_same_result(monkeypatch):
    """A book of 60 MB must not need arrays of its length; where the pieces end may not show."""
    texts = ["Điều này đúng với mọi văn bản dài. " * 40, "ngắn", "漢字かな" * 100]
    whole = scan(texts)
    monkeypatch.setattr(units_module, "PIECE_CHARS", 64)
    pieces = scan(texts)
    for name in ("hash", "single", "ends"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    np.testing.assert_array_equal(whole.scripts.sum(axis=1), pieces.scripts.sum(axis=1))


@given(st.lists(LETTERS, max_size=4), st.integers(1, 4))
@settings(max_examples=150)
def test_ngrams_are_the_windows_of_the_definition(texts, n):
    """Every window once, none across two documents, hashes equal exactly if the units are."""
    found = ngrams(scan(texts), n, single_length(n))
    expected = [ngrams_reference(text, n, single_length(n)) for text in texts]
    hashes = [set(found.hash[found.document == i].tolist()) for i in range(len(texts))]
    assert [len(h) for h in hashes] == [len(e) for e in expected]
    assert len(set().union(*hashes)) == len(set().union(*expected))


@given(st.lists(LETTERS, max_size=5), st.lists(LETTERS, max_size=3), st.integers(1, 4))
@settings(max_examples=200)
def test_contaminated_documents_are_those_of_the_definition(texts, heldout, n):
    assert set(hits(scan(texts), build_index(heldout, n))) == hits_reference(texts, heldout, n)


VI = "Người sử dụng lao động có trách nhiệm bảo đảm điều kiện làm việc an toàn cho người lao động tại nơi làm việc"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t, True),
        (lambda t: t.upper().replace(" ", " – "), True),
        (lambda t: "Mở đầu khác hẳn. " + " ".join(t.split()[4:17]) + " rồi kết thúc khác.", True),
        (lambda t: "Mở đầu khác hẳn. " + " ".join(t.split()[4:16]) + " rồi kết thúc khác.", False),
        (lambda t: t.replace("bảo đảm", "bảo đám").replace("việc an", "viếc an"), False),
    ],
    ids=["same", "other case and punctuation", "13 words inside", "12 words inside", "one tone in every 13 words"],
)
def test_a_passage_of_thirteen_words_gives_a_document_away(change, found):
    """Dressing a passage up does not hide it, and other words are no leak."""
    text = change(VI)
    assert bool(hits(scan([text]), build_index([VI], 13))) == found


def test_japanese_needs_twenty_characters():
    """Thirteen characters are a phrase, not a passage."""
    text = "春はあけぼのやうやう白くなりゆく山ぎは少し明かりて紫だちたる雲"
    index = build_index([text], 13)
    assert hits(scan(["前" + text[3:23] + "後"]), index)
    assert not hits(scan(["前" + text[3:22] + "後"]), index)


def test_a_hit_names_the_held_out_document_and_shows_the_passage():
    """People want to see what was shared before they believe it."""
    text = "Trước đó là lời dẫn. " + VI
    hit = hits(scan(["không liên quan", text]), build_index(["một văn bản khác", VI], 13))[1]
    assert hit.owner == 1 and passage(text, hit.position, 13) == " ".join(VI.split()[:13])


def test_documents_without_a_window_are_counted_as_not_checkable():
    assert build_index([VI, "quá ngắn để kiểm tra"], 13).unchecked == 1
