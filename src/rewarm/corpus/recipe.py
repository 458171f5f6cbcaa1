"""What the text is and how it is cleaned and split: `corpus:` in a recipe."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from rewarm.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Source(Section):
    """One body of text with one origin, one licence and one role."""

    name: str
    """Short name: letters, digits, `.`, `_`, `-`. It names folders, rows of the report and the text in the forgetting report."""
    paths: list[str] = Field(min_length=1)
    """Files, folders or globs (`**` too). Relative ones start from the recipe's folder; a folder means every text file below it."""
    format: Literal["auto", "txt", "jsonl", "parquet"] = "auto"
    """`auto` goes by the file's ending. `jsonl` also reads a .json file that is one array. Compression (gz, zst) is seen by itself."""
    text_field: str = "text"
    """The field (jsonl) or column (parquet) that holds the text. Other fields are not read, so their types may change."""
    id_field: str | None = None
    """The field that names a document. Without it the id is a hash of source, path and row, the same on every machine."""
    txt_unit: Literal["file", "blank_line", "line", "article"] = "blank_line"
    """What one document of a .txt file is. `article`: a Vietnamese statute, cut at each line that begins with `Điều <number>.`"""
    role: Literal["new", "replay"] = "new"
    """`new`: what the model shall learn. `replay`: text of the kind it knows already, mixed in against forgetting."""
    languages: list[str] = Field(default_factory=list)
    """ISO 639-1 codes of what this text should be in. A warning tells the share of documents that look like something else."""
    licence: str | None = None
    """Copied to every document, the data card and the model card. Unknown is a warning: somebody will ask."""
    max_bad_share: Share = 0.01
    """Share of rows that may be unreadable before the run stops; at least 10 rows are always tolerated, and all are listed."""

    @field_validator("name")
    @classmethod
    def _a_name_is_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", name):
            raise ValueError("letters, digits, `.`, `_` and `-` only, at most 80, as it names a folder")
        return name

    @field_validator("paths")
    @classmethod
    def _paths_say_something(cls, paths: list[str]) -> list[str]:
        if not all(path.strip() for path in paths):
            raise ValueError("an empty path would mean the recipe's whole folder: name files or folders")
        return paths


class Normalise(Section):
    """How characters are made equal. Line ends, control and invisible characters, and trailing spaces are always cleaned."""

    unicode: Literal["NFC", "keep"] = "NFC"
    """`NFC` composes accents: decomposed Vietnamese costs two to three times the tokens. `keep` for text whose code points matter."""


class Heldout(Section):
    """The documents of each source that are never trained on, chosen by a hash of their content."""

    share: Share = 0.005
    """Share of a source's bytes, kept between `min_mb` and `max_mb`; never more than a tenth of its documents."""
    min_mb: NonNegativeFloat = 0.4
    """At least this many million bytes a source, if a tenth of its documents gives them: less makes wide intervals."""
    max_mb: NonNegativeFloat = 4.0
    """At most this many million bytes a source; documents that do not fit are passed over. 0: no held-out text."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Heldout:
        if self.min_mb > self.max_mb:
            raise ValueError(f"min_mb {self.min_mb:g} is above max_mb {self.max_mb:g}: lower min_mb or raise max_mb")
        return self


class Decontaminate(Section):
    """Training documents that repeat a passage of any held-out text are dropped."""

    ngram: Annotated[int, Field(ge=0, le=100)] = 13
    """Length in words of a passage that counts as repeated; Han and kana text: 20/13 times as many characters. 0: no check."""


class CorpusRecipe(Section):
    """Raw text in, clean documents out."""

    sources: list[Source] = Field(min_length=1)
    """The bodies of text. Where two hold the same document, the earlier in this list keeps it."""
    normalise: Normalise = Normalise()
    """How characters are made equal."""
    heldout: Heldout = Heldout()
    """What is set aside to measure with."""
    decontaminate: Decontaminate = Decontaminate()
    """How training text is kept apart from the held-out text."""
    min_chars: NonNegativeInt = 50
    """Shorter documents (characters, after cleaning) are dropped: menus, captions, lone headings."""
    seed: NonNegativeInt = 0
    """Another seed holds out other documents."""

    @model_validator(mode="after")
    def _names_differ(self) -> CorpusRecipe:
        twice = [name for name, count in Counter(s.name for s in self.sources).items() if count > 1]
        if twice:
            raise ValueError(f"two sources are called `{twice[0]}`: give each its own name")
        return self
