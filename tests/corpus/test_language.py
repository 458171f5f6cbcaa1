"""A wrong file is noticed by its script and marks; nothing is claimed about languages that look alike."""

from __future__ import annotations

import pytest

from rewarm.corpus.language import judge
from rewarm.corpus.units import scan

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
    found = {language for language, text in TEXTS.items() if judge(scan([text]).scripts, [said])[1] == 0}
    assert found == ({"en", "fr"} if said in ("en", "fr") else {said})


def test_vietnamese_without_marks_does_not_pass_as_vietnamese():
    """Text stripped of its marks teaches a language that nobody writes in books."""
    assert judge(scan(["Nguoi su dung lao dong co trach nhiem bao dam dieu kien lam viec an toan cho nguoi lao dong"]).scripts, ["vi"]) == (
        1,
        1,
    )


def test_short_and_undeclared_text_is_not_judged():
    assert judge(scan(["Hello there", TEXTS["en"]]).scripts, ["vi"]) == (1, 1)
    assert judge(scan([TEXTS["en"]]).scripts, []) == (0, 0)
    assert judge(scan([TEXTS["en"]]).scripts, ["tlh"]) == (0, 0)


def test_one_of_several_languages_is_enough():
    scripts = scan([TEXTS["vi"], TEXTS["ko"], TEXTS["ru"]]).scripts
    assert judge(scripts, ["vi", "ko"]) == (3, 1)
