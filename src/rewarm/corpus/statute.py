"""A Vietnamese statute cut into its articles (Điều).

An article begins at a line `Điều <number>.` and ends before the next one. What is no article is left out and counted: the heading before
the first one, the lines of parts, chapters and sections (Phần, Chương, Mục, Tiểu mục) with their titles, which would otherwise hang on the
end of the article before them, and the closing formula with the signature. Some texts write Đ as the Icelandic Ð (U+00D0), and
some are decomposed; both are understood, neither is changed here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ARTICLE = re.compile(r"^[ \t]*[ĐÐ]i(?:ề|ê\u0300|e\u0302\u0300)u[ \t]+\d+[a-zđ]?[.:]", re.MULTILINE)
_NUMBER = r"(?:[IVXLC]+|\d+)[a-z]?"
_HEADING = re.compile(rf"(?:phần\s+(?:thứ\s+\w+(?:\s+(?!\w*[.:])\w+)?|{_NUMBER})|(?:chương|(?:tiểu\s+)?mục)\s+{_NUMBER})", re.IGNORECASE)
_CLOSING = re.compile(r"(?:Bộ luật|Luật|Pháp lệnh|Nghị quyết) này (?:đã )?được (?:Quốc hội|Ủy ban [Tt]hường vụ Quốc hội)\b.*thông qua")


@dataclass(frozen=True, slots=True)
class Statute:
    """The articles in order, and how many characters were left out."""

    articles: list[str]
    left_out: int


def cut(text: str) -> Statute:
    """Articles of `text`, line ends as they are. No article line: no articles, and everything is left out."""
    starts = [match.start() for match in _ARTICLE.finditer(text.replace("\r", "\n"))]
    articles = [_body(text[start:end]) for start, end in zip(starts, [*starts[1:], len(text)])]
    return Statute(articles, len(text) - sum(map(len, articles)))


def _body(article: str) -> str:
    """The article without the headings of the next chapter and without the closing formula at its end."""
    rows = article.splitlines(keepends=True)
    end = len(rows)
    for i, row in enumerate(rows[1:], 1):
        if _CLOSING.match(_plain(row)):
            end = i
            break
    cut_at = end
    for i in range(end - 1, 0, -1):
        row = rows[i].strip()
        if not row:
            continue
        if _is_heading(row):
            cut_at = i
        elif not _is_title(row, rows[i - 1].strip()):
            break
    return "".join(rows[:cut_at]).rstrip()


def _plain(row: str) -> str:
    from unicodedata import normalize

    return normalize("NFC", row).strip()


def _is_heading(row: str) -> bool:
    """`Chương II`, `Chương II:TÀI SẢN`, `Mục 1. Quy định`, but not the sentence `Chương II của Bộ luật này ...`."""
    match = _HEADING.match(_plain(row))
    if match is None:
        return False
    after = _plain(row)[match.end() :]
    return not after or after.lstrip()[:1] in ".:-–—" or after == after.upper()


def _is_title(row: str, before: str) -> bool:
    """A title below a heading: all capitals, or the line right after a bare `Chương II`."""
    if len(row) > 300:
        return False
    bare = _HEADING.fullmatch(_plain(before).rstrip(".:-–— "))
    return (row == row.upper() and any(c.isalpha() for c in row)) or (bare is not None and row[-1] not in ".;:,")
