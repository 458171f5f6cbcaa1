"""The page docs/vocabulary.md out of benchmarks/results/vocab.json: tables a base, what each peer breaks, how to run it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LANGUAGES = ("vi", "zh", "ja", "ko")
SYSTEMS = ("rewarm", "bpe_continue", "fresh_bpe", "score0", "add_tokens")
BASES = {"smollm2": "SmolLM2", "gpt2": "GPT-2", "llama3": "Llama-3", "qwen": "Qwen2", "gemma": "Gemma", "llama2": "Llama-2"}
SENTENCEPIECE = {"gemma", "llama2"}
OLD = ("en_wikitext2", "en_openstax", "en_novels", "protected")
JOINED = "vi+zh+ja+ko"

HEAD = """# Vocabulary extension, measured

Six real tokenizers get {new:,} new tokens for Vietnamese, Chinese, Japanese or Korean by five ways of doing it, all in one run of
`benchmarks/vocab.py`. Rendered from `benchmarks/results/vocab.json` by `make docs`; figures that are not in that file are not here.

How to read it:

- **bytes a token**: UTF-8 bytes of held-out text over its tokens, before and after. More is better: text costs fewer tokens.
- **changed paragraphs**: share of paragraphs of English text whose token ids differ from the base's, for three held-out texts and for the
  part of the protected text that rewarm sets aside and never counts (`protected`). Less is better; a model has to learn these anew.
- **tokens**: how many more or fewer tokens the three English texts need. An extension that cuts old text otherwise can need more.
- **unreachable**: new tokens that do not come out when their own text goes in: rows that no training will ever touch.
- On SentencePiece bases `bpe_continue` and `fresh_bpe` have no words to stay within: without a pre-tokenizer they join across blanks, which
  shortens all text, English first. rewarm keeps to one word there as well.
- **seconds**: the whole command. rewarm's holds the gate over all 1,112,064 code points, 20,000 fuzzed strings, all held-out text, and the
  model's rows; in brackets, until its tokenizer is written, which is what the others do. CPU seconds and memory are of the process and all
  its workers.
"""

PEERS = """## What each way breaks

"""

AGAIN = """## Run it again

```
pip install -e '.[dev]'
python benchmarks/bases.py CACHE                          # tokenizers and peers from the package index, sha256 checked
python benchmarks/vocab.py DATA CACHE                     # all parts that are not in the results yet; --again measures them anew
python benchmarks/vocab.py DATA CACHE --again --parts extend --bases smollm2 --languages vi --systems rewarm bpe_continue
make docs
```
DATA holds, each with a field `text`, `train/{vi_wiki,vi_law,vi_docs,zh,ja,ko,en_openstax,en_factbook,en_novels}.parquet` and
`heldout/{vi_wiki,zh_history,ja_aozora,ja_wiki_jsquad,ko_reviews,ko_sentences_klue,en_wikitext2_valid,en_openstax,en_novels}.jsonl`.
Times are worth something on a machine that does nothing else: `--machine shared` notes that it did.
"""


class Rows:
    """The result's rows, found by metric, system and case."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.index = {(r["metric"], r["system"], frozenset(r["case"].items())): r["value"] for r in rows}

    def get(self, metric: str, system: str, **case: Any) -> Any:
        return self.index.get((metric, system, frozenset(case.items())))

    def all(self, metric: str, system: str, bases: set[str], *keys: str) -> list[float]:
        """Values of the rows of these bases whose case has just these keys."""
        found = [r for r in self.rows if (r["metric"], r["system"]) == (metric, system) and set(r["case"]) == set(keys)]
        return [r["value"] for r in found if r["case"]["base"] in bases]


def percent(value: float | None, digits: int = 2, sign: bool = False) -> str:
    return "" if value is None else f"{100 * value:{'+' if sign else ''}.{digits}f} %"


def number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def seconds_shown(value: float | None) -> str:
    return number(value, 0 if value is None or value >= 10 else 1)


def span(values: list[float], show: Any) -> str:
    """`a to b`, or one value."""
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def base_table(rows: Rows, base: str, new: int) -> Iterator[str]:
    yield "| language | system | bytes a token | wikitext2 | openstax | novels | protected | tokens | unreachable | seconds | CPU s | GiB |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for language in LANGUAGES:
        case = {"base": base, "language": language, "new": new}
        before = rows.get("bytes_per_token", "base", **case)
        for system in SYSTEMS:
            if (why := rows.get("refused", system, **case)) is not None:
                yield f"| {language} | {system} | refused: {why.splitlines()[0][:100]} | | | | | | | | | |"
            after = rows.get("bytes_per_token", system, **case)
            if after is None:
                continue
            changed = " | ".join(percent(rows.get("changed_lines", system, **case, text=text)) for text in OLD)
            written = rows.get("seconds", system, **case, step="tokenizer written")
            seconds = seconds_shown(rows.get("seconds", system, **case)) + (f" ({seconds_shown(written)})" if written is not None else "")
            tokens, lost = percent(rows.get("token_change", system, **case), 3, True), number(rows.get("unreachable", system, **case))
            cpu, memory = rows.get("cpu_seconds", system, **case), number(rows.get("peak_memory_gib", system, **case), 2)
            gain = f"{number(before, 2)} → {number(after, 2)}"
            yield f"| {language} | {system} | {gain} | {changed} | {tokens} | {lost} | {seconds} | {seconds_shown(cpu)} | {memory} |"


def short(rows: Rows, new: int) -> Iterator[str]:
    """rewarm beside the unguarded continuation, byte-level and SentencePiece bases apart."""
    for kind, bases in (("Byte-level", BASES.keys() - SENTENCEPIECE), ("SentencePiece", SENTENCEPIECE)):
        ratios, shares, ours_changed = [], [], []
        for base, language in ((b, lang) for b in sorted(bases) for lang in LANGUAGES):
            case = {"base": base, "language": language, "new": new}
            ours, theirs = (rows.get("bytes_per_token", s, **case) for s in ("rewarm", "bpe_continue"))
            if ours is None or theirs is None:
                continue
            ratios.append(ours / theirs)
            mine, its = (rows.get("changed_lines", s, **case) for s in ("rewarm", "bpe_continue"))
            ours_changed.append(mine)
            shares += [mine / its] if its else []
        if ratios:
            reached, changed = span(ratios, lambda v: percent(v, 1)), span(ours_changed, percent)
            lines = [
                f"{kind} bases ({len(ratios)} pairs of base and language): rewarm reaches {reached} of the bytes a token of an unguarded",
                f"continuation (`bpe_continue`) and changes {changed} of the English paragraphs of the three texts together"
                + (f", {span(shares, lambda v: percent(v, 0))} of what that one changes." if shares else "."),
            ]
            yield from (*lines, "")


def peers(rows: Rows) -> Iterator[str]:
    for system, text in (
        ("rewarm", "continues the base's merges, refuses those that English text would use, and checks the result before it is saved"),
        ("bpe_continue", "continues the base's merges as well, but guards nothing: the target text holds English names, words and code, "
                         "whose merges go on growing"),
        ("fresh_bpe", "appends the merges of a tokenizer trained from nothing. The base's merges come first and cut the way to many of the "
                      "new tokens, which are then never used"),
        ("score0", "puts all new pieces before every old one, so they win wherever their letters stand, in English too"),
        ("add_tokens", "matches the new tokens as fixed strings before the tokenizer runs, inside of words and across the base's own cuts"),
    ):  # fmt: skip
        yield f"- **{system}** {text}."
        for kind, bases in (("byte-level", BASES.keys() - SENTENCEPIECE), ("SentencePiece", SENTENCEPIECE)):
            yield from broken(rows, system, kind, bases)
    yield ""


def broken(rows: Rows, system: str, kind: str, bases: set[str]) -> Iterator[str]:
    """One line on what a system does to old text and to its own tokens, over all bases of a kind and all languages."""
    changed, tokens, lost, gone = (
        rows.all(metric, system, bases, "base", "language", "new")
        for metric in ("changed_lines", "token_change", "unreachable", "lost_lines")
    )
    if changed:
        yield (
            f"  - {kind} bases: changed English paragraphs {span(changed, percent)}; English tokens "
            f"{span(tokens, lambda v: percent(v, 2, True))}; unreachable new tokens {span(lost, number)}"
            + (f"; paragraphs that no longer come back from their ids {span(gone, percent)}." if gone else ".")
        )


def joint(rows: Rows) -> Iterator[str]:
    case = next(
        (r["case"] for r in rows.rows if r["metric"] == "peak_memory_gib" and "from" not in r["case"] and r["part"] == "joint"), None
    )
    if case is None:
        return
    yield f"## Four languages at once: SmolLM2 and {case['new']:,} new tokens"
    yield ""
    yield "| language | bytes a token |"
    yield "|---|---|"
    for language in LANGUAGES:
        before, after = (rows.get("bytes_per_token", s, **case, language=language) for s in ("base", "rewarm"))
        yield f"| {language} | {number(before, 2)} → {number(after, 2)} |"
    yield ""
    changed = ", ".join(f"{text} {percent(rows.get('changed_lines', 'rewarm', **case, text=text))}" for text in OLD)
    written = rows.get("seconds", "rewarm", **case, step="tokenizer written")
    yield f"Changed paragraphs: {changed}. {rows.get('unreachable', 'rewarm', **case)} unreachable tokens."
    yield (
        f"{number(rows.get('seconds', 'rewarm', **case))} s, {number(written)} s until the tokenizer is written, "
        f"{number(rows.get('peak_memory_gib', 'rewarm', **case), 2)} GiB."
    )
    for row in rows.rows:
        if row["metric"] == "seconds" and "from" in row["case"] and "step" in row["case"]:
            what, seconds = row["case"]["from"].partition(", ")[2], number(row["value"], 1)
            yield f"From counts that are there already, {what}: {seconds} s until the tokenizer is written."
    yield ""


def growth(rows: Rows) -> Iterator[str]:
    found = sorted((r["case"]["text_mb"], r) for r in rows.rows if r["metric"] == "peak_memory_gib" and "text_mb" in r["case"])
    if not found:
        return
    yield "## Growth with the text"
    yield ""
    yield "SmolLM2, all four languages; text grows by copies in which one letter in twenty is another, so that new words come in."
    yield ""
    yield "| MB | seconds | until the tokenizer is written | CPU s | GiB |"
    yield "|---|---|---|---|---|"
    for megabytes, row in found:
        values = [rows.get("seconds", "rewarm", **row["case"]), rows.get("seconds", "rewarm", **row["case"], step="tokenizer written")]
        cpu = rows.get("cpu_seconds", "rewarm", **row["case"])
        yield f"| {megabytes} | {number(values[0])} | {number(values[1])} | {number(cpu)} | {number(row['value'], 2)} |"
    yield ""


def encoder(rows: Rows) -> Iterator[str]:
    found = [r for r in rows.rows if r["metric"] == "used" and r["system"] == "fastokens"]
    if not found:
        return
    yield "## The fast encoder gives the reference's ids"
    yield ""
    yield "| base | tokenizer | lines | lines that differ | fastokens, MB/s a core | tokenizers, MB/s a core | |"
    yield "|---|---|---|---|---|---|---|"
    for row in found:
        rates = [rows.get("mb_per_second_per_core", s, **row["case"]) for s in ("fastokens", "tokenizers")]
        differ = rows.get("different_lines", "fastokens", **row["case"])
        note = "" if row["value"] == "fastokens" else row["value"]
        cells = [BASES[row["case"]["base"]], row["case"]["tokenizer"], number(row["case"]["lines"]), number(differ)]
        yield f"| {' | '.join(cells)} | {number(rates[0], 1)} | {number(rates[1], 1)} | {note} |"
    yield ""


def fresh(rows: Rows) -> Iterator[str]:
    found = [r for r in rows.rows if r["metric"] == "bytes_per_token" and "size" in r["case"] and "text" not in r["case"]]
    if not found:
        return
    yield "## Fresh tokenizers"
    yield ""
    yield "A byte-level BPE from nothing, for a model from scratch, on the same text and with GPT-2's split."
    yield ""
    yield "| language | size | system | bytes a token | seconds | CPU s | GiB |"
    yield "|---|---|---|---|---|---|---|"
    for row in sorted(found, key=lambda r: (LANGUAGES.index(r["case"]["language"]), r["case"]["size"], r["system"])):
        times = [rows.get(m, row["system"], **row["case"]) for m in ("seconds", "cpu_seconds")]
        memory = number(rows.get("peak_memory_gib", row["system"], **row["case"]), 2)
        cells = [
            row["case"]["language"],
            number(row["case"]["size"]),
            row["system"],
            number(row["value"], 3),
            *(seconds_shown(t) for t in times),
        ]
        yield f"| {' | '.join(cells)} | {memory} |"
    yield ""


def page(result: dict[str, Any]) -> str:
    rows = Rows(result["rows"])
    new = max((r["case"]["new"] for r in rows.rows if r["part"].startswith("extend")), default=0)
    lines = HEAD.format(new=new).split("\n")
    commits = sorted({p["commit"] for p in result["parts"].values()})
    named = ", ".join(commits[:3]) + (f" and {len(commits) - 3} more" if len(commits) > 3 else "")
    dates = sorted({p["date"] for p in result["parts"].values()})
    lines.append(f"Measured {dates[0]}{'' if len(dates) == 1 else f' to {dates[-1]}'} on {result['device']}, commits {named}.")
    if any(p["machine"] == "shared" for p in result["parts"].values()):
        shared = sum(p["machine"] == "shared" for p in result["parts"].values())
        lines.append(
            f"The machine did other work at the same time in {shared} of {len(result['parts'])} parts: times there are upper bounds."
        )
    lines += ["", *short(rows, new)]
    for base, title in BASES.items():
        table = list(base_table(rows, base, new))
        if len(table) > 2:
            lines += [f"## {title}", "", *([result["sources"][base], ""] if base in result.get("sources", {}) else []), *table, ""]
    lines += [*PEERS.split("\n")[:-1], *peers(rows), *joint(rows), *growth(rows), *encoder(rows), *fresh(rows)]
    return "\n".join([*lines, *AGAIN.split("\n")])
