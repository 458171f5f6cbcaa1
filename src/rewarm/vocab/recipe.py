"""The `vocab:` section of a recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from rewarm.section import Section

Init = Literal["length_mean", "fvt", "mean", "focus"]


class Rules(Section):
    """What a new token may look like. They hold for the result of every merge, so for the tokens on the way to it too."""

    character: bool = True
    """A token is whole characters, or a part of one character with at most a space before it. Without this rule some tokens end inside a
    second character (3 % of Korean ones), which no text could be cut at."""
    digits: Literal["never", "allow"] = "never"
    """`never`: no new token holds a decimal digit, so numbers keep the tokens the model learnt to count with."""
    max_chars: PositiveInt = 16
    """Longest new token in characters; keeps law boilerplate from becoming one token."""
    max_bytes: PositiveInt = 48
    """Longest new token in UTF-8 bytes."""
    repeat_cap: PositiveInt = 4
    """A line that repeats counts at most this often, so that headers and footers do not fill the vocabulary."""


class VocabRecipe(Section):
    """How the tokenizer grows."""

    extend: bool | Literal["auto"] = "auto"
    """`auto`: only if some size within `max_size` gains at least `min_gain`; `true`: in any case; `false`: the base's tokenizer stays."""
    size: PositiveInt | Literal["auto"] = "auto"
    """New tokens, all languages together. `auto`: the smallest size whose doubling would add less than 3 % bytes a token, less the tail
    under `min_uses`."""
    max_size: PositiveInt = 32_000
    """Upper bound of `size`. Each token costs one row of the model's width, two where input and output rows are not shared."""
    min_gain: Annotated[float, Field(ge=0.0, le=10.0)] = 0.15
    """Least gain in bytes a token (0.15 = 15 %) on held-out target text for which `extend: auto` extends."""
    balance: Literal["equal", "proportional", "parity"] | dict[str, Annotated[float, Field(gt=0.0, le=1000.0)]] = "equal"
    """How several languages share the new tokens. `equal`: as if each had as much text; `proportional`: by their text; a mapping, as
    `{vi: 2, ko: 1}`: as `equal`, times these weights; `parity`: each token goes to the language whose lines in `parallel` are the longest
    in tokens by then, so that the same content costs about the same in each."""
    parallel: dict[str, str] = Field(default_factory=dict)
    """For `balance: parity`: language -> file of parallel text. Line n of each file says the same; some thousand lines do."""
    tau: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["off"] = 0.01
    """Guard of old text: a merge is refused if its rate (per byte) in the protected text is above `tau` times its rate in the target text.
    `off` goes without protected text, and then nothing is proven about old text."""
    name_guard: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["off"] = 0.0002
    """Guard of words that no protected text holds, as foreign names. A new token is refused if a run of four letters in it looks like old
    text: with rates (per byte) a in the target and p in the protected text, if p > a * a / name_guard. Larger is stricter, `off` leaves it
    to the pairs. For Vietnamese it costs 0.8 % bytes a token; 0.4 % of an English encyclopaedia's paragraphs then change, not 3.5 %."""
    max_changed_lines: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    """Share of protected lines, set aside before counting, whose tokens may change (they get fewer and longer ones). An automatic size
    shrinks to keep it. `auto`: what the kind of tokenizer can hold, 0.002 for byte-level BPE, 0.015 for SentencePiece BPE, 0.01 for Unigram
    and WordPiece. A line of more than 200 characters counts as its sentences, so that the share does not depend on how text is cut into
    paragraphs."""
    rules: Rules = Rules()
    """What a new token may look like."""
    words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Words that become one token each, however rare, on top of `size`. Their parts are joined two at a time, so tokens on the way come
    with them. Each is made as it stands in the target text: at a text's beginning, after a blank, or both."""
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """New control tokens, as `<|tool|>`, with the last ids. They are cut out of text before anything else; their rows start as the mean."""
    min_uses: PositiveInt | Literal["auto"] = "auto"
    """Least expected uses of a new token in the planned training (without a plan: in the counted text); the rarer tail is cut.
    `auto`: one in 100,000 planned tokens, at least 2, at most 200; a size that is given in numbers is then not cut."""
    init: Init = "length_mean"
    """First value of a new row: `length_mean` = mean of the rows of its old tokens, weighted by their bytes; `fvt` = their plain mean;
    `focus` = mix of the rows of old tokens that the target text uses alike (a minute more, and at 135M parameters it starts behind:
    3.03 bits a byte of Vietnamese before training, `length_mean` 2.43, `fvt` 2.52); `mean` = mean of all trained rows (3.50), the
    same for all (worse: a row must then be learnt from nothing)."""
    init_output: Literal["same"] | Init = "same"
    """The same for rows of the output matrix, where the model has one of its own."""
    check_bits: bool | Literal["auto"] = "auto"
    """Whether both models are run before anything is saved: logits of old ids must agree, and protected text must cost at most 0.05 bits a
    byte more than with the base. `auto`: where that takes seconds, below 500 million parameters."""
    pad_to: PositiveInt = 128
    """Where the new ids do not fit into the rows that the base has, there are as many as a multiple of this (matrix products like round
    sizes). Rows are never fewer than before."""
    model_file: Literal["as_base", "always"] = "as_base"
    """`always`: a SentencePiece BPE base that has only tokenizer.json gets a tokenizer.model too, its scores made from the order of the
    merges; some programs read nothing else. Other kinds of tokenizers are not concerned."""
    repair_bytes: bool = True
    """Adds the single bytes the base lacks, after the new tokens, so that every text survives encoding and decoding."""
    sample_mb: PositiveInt = 100
    """Megabytes of each language, and of protected text, that are counted; documents are chosen by a hash."""
    seed: int = 0
    """Chooses the documents that are sampled, held out and tested."""

    @model_validator(mode="after")
    def _size_within_bound(self) -> Self:
        if self.size != "auto" and self.size > self.max_size:
            raise ValueError(f"size {self.size:,} is above max_size {self.max_size:,}: raise max_size or lower size")
        return self

    @model_validator(mode="after")
    def _parity_needs_parallel_text(self) -> Self:
        if bool(self.parallel) != (self.balance == "parity"):
            raise ValueError("`balance: parity` and `parallel` (line-aligned files, one a language) go together")
        return self
