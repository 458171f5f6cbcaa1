"""A wrong file is noticed by its script and marks; nothing is claimed about languages that look alike."""

from __future__ import annotations

import numpy as np
import pytest

from rewarm.corpus.language import TOLERATED, blocks, judge, look, told
from rewarm.corpus.units import SCRIPTS, scan

TEXTS = {
    "vi": "Người sử dụng lao động có trách nhiệm bảo đảm điều kiện làm việc an toàn cho người lao động tại nơi làm việc.",
    "en": "The employer shall ensure that working conditions are safe for every worker at every place of work in the country.",
    "fr": "L'employeur doit veiller à ce que les conditions de travail soient sûres pour chaque salarié à l'étranger et ailleurs.",
    "zh": "用人单位应当保证劳动者在工作场所的安全条件，并依照法律规定为其提供必要的劳动防护用品，对劳动者应当定期进行健康检查。",
    "ja": "使用者は、労働者がその生命、身体等の安全を確保しつつ労働することができるよう、必要な配慮をするものとする。",
    "ko": "사용자는 근로자가 안전하게 일할 수 있도록 필요한 조치를 하여야 한다. 이 법은 모든 사업장에 적용되며 근로자의 권리를 보호한다.",
    "ru": "Работодатель обязан обеспечить безопасные условия труда для каждого работника на каждом рабочем месте в стране.",
}


@pytest.mark.parametrize("said", [*TEXTS])
def test_each_language_passes_as_itself_and_not_as_another_script(said):
    """English and French are not told apart: both are Latin without Vietnamese marks."""
    found = {language for language, text in TEXTS.items() if look([text], [said]).other == 0}
    assert found == ({"en", "fr"} if said in ("en", "fr") else {said})


def test_vietnamese_without_marks_does_not_pass_as_vietnamese():
    """Text stripped of its marks teaches a language that nobody writes in books."""
    assert look(["Nguoi su dung lao dong co trach nhiem bao dam dieu kien lam viec an toan cho nguoi lao dong"], ["vi"]).share == 1


def test_short_and_undeclared_text_is_not_judged():
    """A name of two words is in no language; without a declared one, or with one that is not known here, there is nothing to compare."""
    looks, other = judge(scan(["Hello there", TEXTS["en"]]).scripts, ["vi"])
    assert other.tolist() == [False, True] and looks.other == looks.letters > 80
    assert look([TEXTS["en"]], []).letters == look([TEXTS["en"]], ["tlh"]).letters == 0


def test_one_of_several_languages_is_enough():
    _, other = judge(scan([TEXTS["vi"], TEXTS["ko"], TEXTS["ru"]]).scripts, ["vi", "ko"])
    assert other.tolist() == [False, False, True]


def long(language, letters):
    """About so many characters of one language, a sentence a line."""
    line = TEXTS[language]
    return "\n".join([line] * (letters // len(line)))


def test_the_share_is_found_in_documents_and_between_the_lines_of_one():
    """English documents among Vietnamese ones, and English paragraphs inside them, are the same third of the text."""
    apart = look([long("vi", 20_000), long("vi", 20_000), long("en", 20_000)], ["vi"])
    inside = look(["\n".join([long("vi", 2_000), long("en", 1_000)] * 20)], ["vi"])
    assert apart.share == pytest.approx(1 / 3, abs=0.03) and inside.share == pytest.approx(1 / 3, abs=0.05)
    for looks in (apart, inside):
        assert (
            told(looks, ["vi"])
            == f"{looks.share:.0%} of its text does not look like vi: mostly Latin letters without Vietnamese marks, as in English"
        )
    assert look([long("vi", 2_000), long("en", 2_000)], ["vi", "en"]).other == 0


@pytest.mark.parametrize("found, words", [("vi", "Vietnamese"), ("ja", "Japanese"), ("zh", "Chinese characters"), ("ko", "Korean letters")])
def test_what_was_found_instead_is_named(found, words):
    """`en` over a folder of something else: the name says at once which file got there."""
    said = told(look([long("en", 1_000), long(found, 1_000)], ["en"]), ["en"])
    assert said is not None and said.endswith(f"does not look like en: mostly {words}")


def test_a_little_of_another_language_is_no_warning():
    """Manuals quote code and names; a warning that always comes is read by nobody."""
    looks = look([long("vi", 20_000), long("en", 1_500)], ["vi"])
    assert 0 < looks.share < TOLERATED and told(looks, ["vi"]) is None


@pytest.mark.parametrize("text", ["", "\n", "one", "a\n" * 500, "x" * 1000, "a" * 199 + "\n" + "b" * 199 + "\n\n", "a" * 200 + "\n" + "b"])
def test_blocks_are_the_text_and_none_is_small(text):
    """Units are counted in blocks and joined to documents: a lost line end or letter would change hashes of documents."""
    found = blocks(text)
    assert "\n".join(found) == text
    assert all(len(block) >= 200 for block in found) or len(found) == 1


def test_units_of_blocks_joined_are_the_units_of_the_texts():
    """Copies and repeated passages are found by these units, whatever language is judged by."""
    texts = [long("vi", 3_000), "kurz", TEXTS["ja"] + "\n" + long("en", 1_000)]
    pieces = [blocks(text) for text in texts]
    joined = scan([block for of_text in pieces for block in of_text]).joined(np.array([len(p) for p in pieces]))
    whole = scan(texts)
    for name in ("hash", "single", "ends"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    letters = [i for i, kind in enumerate(SCRIPTS) if kind != "none"]
    np.testing.assert_array_equal(joined.scripts[:, letters], whole.scripts[:, letters])
