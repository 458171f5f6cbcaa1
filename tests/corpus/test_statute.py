"""A statute is cut into articles, and nothing of the chapters' headings hangs on them."""

from __future__ import annotations

from unicodedata import normalize

import pytest

from rewarm.corpus.statute import cut

LAW = """QUỐC HỘI
Luật số: 1/2020/QH14
BỘ LUẬT
THỬ NGHIỆM
Căn cứ Hiến pháp;
Phần thứ nhất:QUY ĐỊNH CHUNG
Chương I:NHỮNG QUY ĐỊNH CHUNG
Điều 1. Phạm vi điều chỉnh
Luật này quy định như sau:
1. Theo Điều 2 của Luật này.
2. Chương II của Bộ luật này không áp dụng.
Chương II
QUYỀN VÀ NGHĨA VỤ
Mục 1. QUYỀN
Tiểu mục 1. QUYỀN SỬ DỤNG
Điều 2. Quyền
Điều kiện để có quyền:
a) Đủ tuổi;
b) Có TÀI SẢN.
Mục II. Nghĩa vụ chung
Ðiều 3. Nghĩa vụ
Mục đích của nghĩa vụ là rõ ràng.
PHẦN THỨ HAI:ĐIỀU KHOẢN THI HÀNH
Điều 4a. Hiệu lực
Luật này có hiệu lực từ ngày 01 tháng 01 năm 2021.
Luật này đã được Quốc hội nước Cộng hòa xã hội chủ nghĩa Việt Nam khóa XIV thông qua ngày 20 tháng 11 năm 2020./.

CHỦ TỊCH QUỐC HỘI Nguyễn Văn A
"""


def test_articles_begin_and_end_where_a_reader_would_cut():
    """Headings before, between and after are left out; sentences that only mention chapters and articles stay."""
    articles = cut(LAW).articles
    assert [article.split("\n")[0] for article in articles] == [
        "Điều 1. Phạm vi điều chỉnh",
        "Điều 2. Quyền",
        "Ðiều 3. Nghĩa vụ",
        "Điều 4a. Hiệu lực",
    ]
    assert articles[0].endswith("2. Chương II của Bộ luật này không áp dụng.")
    assert articles[1].endswith("b) Có TÀI SẢN.")
    assert articles[2].endswith("Mục đích của nghĩa vụ là rõ ràng.")
    assert articles[3].endswith("Luật này có hiệu lực từ ngày 01 tháng 01 năm 2021.")


def test_what_is_left_out_is_counted():
    """Articles and the count add up to the text."""
    statute = cut(LAW)
    assert sum(map(len, statute.articles)) + statute.left_out == len(LAW)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_the_way_a_file_is_written_does_not_matter(form, line_end):
    """One of the demo's codes is decomposed; files from Windows have other line ends. The text itself is not changed here."""
    found = cut(normalize(form, LAW).replace("\n", line_end)).articles
    assert [normalize("NFC", article).replace(line_end, "\n") for article in found] == cut(LAW).articles


def test_a_title_in_small_letters_below_a_bare_chapter_number_is_a_heading():
    articles = cut("Điều 1. Một\nNội dung một.\nChương III\nĐiều khoản chuyển tiếp\nĐiều 2. Hai\nNội dung hai.").articles
    assert articles == ["Điều 1. Một\nNội dung một.", "Điều 2. Hai\nNội dung hai."]


def test_a_text_without_articles_gives_none():
    assert cut("Không có điều nào ở đây.\nĐiều này không đánh số.").articles == []
