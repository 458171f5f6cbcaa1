"""All invariants of the gate on any two tokenizers, whoever made the second: what it broke, each with an example.

The gate judges what this package is about to write, and may stop at the first thing that makes no sense. An audit goes on as far as it can:
a tokenizer that was trained anew breaks several invariants, and its owner wants to know all of them.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rewarm.vocab.base import Base, encode_ids, open_base
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import Finding, allowed_changes, allowed_share, changed_lines, check_tokenizer
from rewarm.vocab.gate_bits import check_bits
from rewarm.vocab.gate_rows import audit_model
from rewarm.vocab.readers import Cutter, open_cutter
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.show import escaped, readable

NAMES = {
    1: "old ids, added tokens and settings are equal",
    2: "old merges come first",
    3: "new tokens only glue old ones",
    4: "protected text keeps its tokens",
    5: "new tokens are reachable",
    6: "each new token is used",
    7: "code points survive",
    8: "old file formats agree",
    9: "all libraries read it alike",
    10: "special tokens and chat template are equal",
    11: "new tokens keep the rules",
    12: "a second write is equal",
    13: "the model is the base with more rows",
    14: "protected text costs no more bits",
}


_TOKENIZER = range(1, 12)
"""Invariants that need the tokenizer to open."""


def audit(base: Base, new_folder: Path, texts: GateTexts, cfg: VocabRecipe, with_model: bool = True) -> list[Finding]:
    """A finding or more for each invariant 1 to 14, in order; one that could not be judged is `ok` and says why in `value`.

    texts: protected lines for 4 and 14, target lines for 6; both also for 3, 8, 9. with_model: also judge the weights (13, 14). Raises
    nothing for whatever is wrong with the new tokenizer.
    """
    findings = check_tokenizer(base, new_folder, texts, cfg)
    why = "the tokenizer cannot be opened as one of the base's kind (see 9)"
    if {f.number for f in findings} == {9}:
        findings += _loosely(base, new_folder, texts, cfg)
    else:
        why = ""
        findings += _used(base, new_folder, texts.target)
    findings = [_with_cuts(f, base, new_folder) for f in findings]
    if with_model:
        findings += _model(base, new_folder, texts, cfg)
    reasons = {
        4: "no protected text (--protect)",
        6: "no target text (--target)",
        10: "see 9",
        12: "only its maker can write it a second time",
        **dict.fromkeys((13, 14), "a folder has no safetensors" if with_model else "weights were left out (--tokenizer-only)"),
    }
    judged = {f.number for f in findings}
    missing = [
        Finding(n, name, True, f"not judged: {why if why and n in _TOKENIZER else reasons.get(n, 'the tokenizers are of different kinds')}")
        for n, name in NAMES.items()
        if n not in judged
    ]
    return sorted(findings + missing, key=lambda finding: finding.number)


def _with_cuts(finding: Finding, base: Base, folder: Path) -> Finding:
    """The same; where a line is the example of changed tokens, it shows how both cut it, and comes after that."""
    if finding.ok or finding.number not in (3, 4) or not finding.example or not (folder / "tokenizer.json").is_file():
        return finding
    cuts = first_change(open_cutter(base.folder), open_cutter(folder / "tokenizer.json"), finding.example, finding.number == 3)
    return replace(finding, example=f"{cuts}\nin: {escaped(finding.example)[:120]}") if cuts else finding


def first_change(base: Cutter, new: Cutter, text: str, crossing: bool = False) -> str | None:
    """`st|uc|tured  ->  struc|tured`: the first stretch between two places where both cut that they cut otherwise; None if there is none.

    crossing: only a stretch in which the new one cuts where the old one does not. Where tokens are not the text's own bytes (WordPiece), a
    stretch may reach to the text's end.
    """
    old, now = ([cutter.surfaces[i] or b"" for i in cutter.encode([text])[0]] for cutter in (base, new))
    ends = [list(accumulate(map(len, surfaces))) for surfaces in (old, now)]
    start = [0, 0]
    for meet in [*sorted(set(ends[0]) & set(ends[1])), sys.maxsize]:
        stop = [bisect_right(at, meet) for at in ends]
        before, after = old[start[0] : stop[0]], now[start[1] : stop[1]]
        if before != after and (len(after) > 1 or not crossing):
            return "  ->  ".join("|".join(map(readable, part)) for part in (before, after))
        start = stop
    return None


def _loosely(base: Base, folder: Path, texts: GateTexts, cfg: VocabRecipe) -> list[Finding]:
    """Invariants 1 and 4 of a tokenizer that loads, but contradicts itself or is of an unknown kind."""
    try:
        new = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # whatever the library says of a file that it cannot read: finding 9 has it
        return []
    loaded = new.get_vocab(with_added_tokens=True)
    moved = [(t, i, loaded.get(t)) for t, i in base.tokenizer.get_vocab(with_added_tokens=True).items() if loaded.get(t) != i]
    example = "".join(f"`{text}` had id {i}, now {now}" for text, i, now in moved[:1])
    out = [Finding(1, NAMES[1], not moved, len(moved), 0, example)]
    if texts.protected:
        changed, before, after, line = changed_lines(base.tokenizer, new, texts.protected)
        limit = allowed_changes(len(texts.protected), allowed_share(base, cfg), 0.001)
        value = {"changed_lines": changed, "lines": len(texts.protected), "tokens_before": before, "tokens_after": after}
        out.append(Finding(4, NAMES[4], changed <= limit and after <= before, value, {"changed_lines": limit}, line))
    return out


def _new_ids(base: Base, new: Tokenizer) -> list[int]:
    old = set(base.tokenizer.get_vocab(with_added_tokens=True).values())
    return sorted({*new.get_vocab(with_added_tokens=True).values()} - old)


def _used(base: Base, folder: Path, target: list[str]) -> list[Finding]:
    """6, as far as a text can tell: a token that only stands inside longer ones is not used on its own, and is no fault."""
    if not target:
        return []
    new = open_base(folder).tokenizer
    ids = _new_ids(base, new)
    idle = len(ids) - len({i for line in encode_ids(new, target) for i in line}.intersection(ids))
    return [Finding(6, NAMES[6], True, f"not judged: {idle:,} of {len(ids):,} new tokens stand nowhere on their own in this text")]


def _model(base: Base, folder: Path, texts: GateTexts, cfg: VocabRecipe) -> list[Finding]:
    """13, and 14 where 13 holds: a model of other sizes would not load, and one that was trained since is another model."""
    file = folder / "tokenizer.json"
    if not (_has_weights(base.folder) and _has_weights(folder) and file.is_file()):
        return []
    findings = audit_model(base, folder, _new_ids(base, Tokenizer.from_file(str(file))))
    if not all(f.ok for f in findings):
        return [*findings, Finding(14, NAMES[14], True, "not judged: 13 is broken")]
    bits = check_bits(base, folder, texts.protected, base.next_id, cfg)
    if not bits:
        why = "no protected text (--protect)" if not texts.protected else "more than 500 million parameters"
        bits = [Finding(14, NAMES[14], True, f"not judged: {why}")]
    return findings + bits


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def finding_lines(findings: list[Finding]) -> list[tuple[str, str]]:
    """(state, line): state is `ok`, `broken` or `open`; below a broken one stand lines with an example, of state `detail`."""
    out = []
    for f in findings:
        unjudged = isinstance(f.value, str) and f.value.startswith("not judged")
        state = "open" if unjudged else "ok" if f.ok else "broken"
        out.append((state, f"{f.number:>3}  {'-' if unjudged else 'ok' if f.ok else 'BROKEN':<6}  {f.name}{_measured(f)}"))
        if not f.ok:
            out += [("detail", f"             {line}") for line in f.example.splitlines() if line.strip()]
    return out


def _measured(f: Finding) -> str:
    """`: 3 (allowed: 0)`, as far as there is something to say."""
    if isinstance(f.value, dict):
        value: Any = ", ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in f.value.items())
    else:
        value = None if f.value is None or f.value == f.limit or (f.ok and f.value == 0) else _number(f.value)
    limit = f.limit.get("changed_lines") if isinstance(f.limit, dict) else f.limit
    allowed = "" if limit is None else f" (allowed: {_number(limit)})"
    return "" if value is None else f": {value}{allowed}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
