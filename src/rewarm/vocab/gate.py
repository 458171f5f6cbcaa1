"""The gate: what must hold of an extended tokenizer before anything is saved, each with a number, a value and an example.

It reads both tokenizers from their files and trusts nothing that made them, so it judges anybody's extension. The numbers are those of the
documentation: 1 to 4 old text, 5 to 7 new tokens, 8 to 12 files; the model's rows (13) are judged in `gate_rows.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rewarm.errors import UserError
from rewarm.vocab.base import Base, encode_ids, open_base
from rewarm.vocab.fuzz import GateTexts, all_characters, fuzz
from rewarm.vocab.kinds import kind_named
from rewarm.vocab.recipe import VocabRecipe

FUZZED = 20_000
BLOCK = 1024
_FLAGS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Finding:
    """One invariant: whether it holds, what was measured, what was allowed, and an example where it fails."""

    number: int
    name: str
    ok: bool
    value: Any = None
    limit: Any = None
    example: str = ""
    fix: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def check_tokenizer(base: Base, new_folder: Path, texts: GateTexts, cfg: VocabRecipe, fewest_uses: float | None = None) -> list[Finding]:
    """Invariants 1 to 11 of the tokenizer in `new_folder` against `base`, in order.

    fewest_uses: occurrences of the rarest new token in the counted text, if known (6 is left out otherwise).
    """
    try:
        new = open_base(new_folder)
    except UserError as error:
        return [Finding(9, "reload", False, example=error.render())]
    lines = [*fuzz(texts, base, cfg.seed, FUZZED), *texts.target, *texts.protected]
    findings = [_old_ids(base, new, cfg.special_tokens)]
    if new.kind == base.kind:
        findings += kind_named(base.kind).checks(base, new, lines, cfg)
    else:
        findings.append(Finding(2, "the kind of tokenizer is the base's", False, new.kind, base.kind, "it was trained anew"))
    if texts.protected:
        findings.append(_protected(base, new, texts.protected, allowed_share(base, cfg)))
    if fewest_uses is not None:
        findings.append(Finding(6, "each new token is used", fewest_uses >= 2, fewest_uses, 2, fix="lower vocab.size"))
    findings.append(_round_trip(base, new))
    findings += _transformers(base, new, texts)
    findings.append(_rules(base, new, cfg))
    return sorted(findings, key=lambda finding: finding.number)


def new_pieces(base: Base, new: Base) -> dict[str, int]:
    """Piece -> id of what the base has no id for, control tokens left out."""
    old_ids = set(base.vocab.values()) | base.special_ids | new.special_ids
    return {text: i for text, i in new.vocab.items() if i not in old_ids}


def allowed_share(base: Base, cfg: VocabRecipe) -> float:
    """Share of protected lines that may change; `auto` is what the kind of tokenizer can hold."""
    return kind_named(base.kind).changed_lines if cfg.max_changed_lines == "auto" else cfg.max_changed_lines


def _old_ids(base: Base, new: Base, special: Sequence[str]) -> Finding:
    """1: every old (token, id) pair is there when the library has loaded the file, and the added tokens are the same, flags and order.

    special: control tokens that were asked for and come behind the old ones.
    """
    loaded = new.tokenizer.get_vocab(with_added_tokens=True)
    moved = [(t, i, loaded.get(t)) for t, i in base.tokenizer.get_vocab(with_added_tokens=True).items() if loaded.get(t) != i]
    before = [{k: t.get(k) for k in _FLAGS} for t in base.added]
    after = [{k: t.get(k) for k in _FLAGS} for t in new.added]
    if special and [(t["content"], t["special"]) for t in after[-len(special) :]] == [(text, True) for text in special]:
        after = after[: -len(special)]
    example = ""
    if moved:
        text, i, now = moved[0]
        example = f"`{text}` had id {i}, now {now}"
    elif before != after:
        i = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
        example = f"added token {i}: {before[i : i + 1] or 'none'} became {after[i : i + 1] or 'none'}"
        if after[: len(before)] == before:
            inside = "" if after[i]["special"] else ", which is cut out of words, before any merge"
            example = f"{len(after) - len(before):,} added tokens are new, first `{after[i]['content']}`{inside}"
    rest = {k: v for k, v in base.spec.items() if k not in ("model", "added_tokens")}
    model = {k: v for k, v in base.spec["model"].items() if k not in ("vocab", "merges")}
    for key, value in [*rest.items(), *model.items()]:
        now = new.spec.get(key) if key in rest else new.spec["model"].get(key)
        if not example and now != value:
            example = f"`{key}` was {json.dumps(value)[:80]}, now {json.dumps(now)[:80]}"
    return Finding(1, "old ids, added tokens and settings are equal", not example, len(moved), 0, example)


def changed_lines(base: Tokenizer, new: Tokenizer, lines: list[str]) -> tuple[int, int, int, str]:
    """(lines whose ids differ, old tokens, new tokens, an example)."""
    before, after = encode_ids(base, lines), encode_ids(new, lines)
    differ = [line for line, a, b in zip(lines, before, after) if a != b]
    return len(differ), sum(map(len, before)), sum(map(len, after)), differ[0][:200] if differ else ""


def allowed_changes(lines: int, share: float, chance: float) -> int:
    """Most changed lines that do not speak against a true share of `share`: more come about with less than this chance (binomial).

    With 450 lines and a share of 1 %, 4.5 are expected, but 9 prove nothing; with 100,000 lines the allowance is close to the share.
    """
    if share <= 0.0:
        return 0
    if share >= 1.0:
        return lines
    log = lines * math.log1p(-share)
    below = math.exp(log)
    c = 0
    while c < lines and 1.0 - below > chance:
        c += 1
        log += math.log((lines - c + 1) / c) + math.log(share) - math.log1p(-share)
        below += math.exp(log)
    return c


def _protected(base: Base, new: Base, lines: list[str], share: float) -> Finding:
    """4: protected text keeps its tokens on (nearly) all lines, and never gets more of them."""
    changed, before, after, example = changed_lines(base.tokenizer, new.tokenizer, lines)
    limit = allowed_changes(len(lines), share, 0.001)
    ok = changed <= limit and after <= before
    value = {"changed_lines": changed, "lines": len(lines), "tokens_before": before, "tokens_after": after}
    return Finding(
        4, "protected text keeps its tokens", ok, value, {"changed_lines": limit, "share": share}, "" if ok else example,
        "" if ok else "give more protected text (20 MB and more), lower vocab.tau or vocab.size, or raise vocab.max_changed_lines",
    )  # fmt: skip


def _round_trip(base: Base, new: Base) -> Finding:
    """7: every code point survives encoding and decoding, wherever the base's does; blocks of 1,024, single ones where a block fails.

    What the base's normalizer replaces (₨ by Rs) is not judged: where it was unknown before, it may come back as its replacement.
    """
    characters = all_characters()
    blocks = ["".join(characters[i : i + BLOCK]) for i in range(0, len(characters), BLOCK)]
    suspects = [b for b, back in zip(blocks, _back(new.tokenizer, blocks)) if b != back]
    singles = [c for block in suspects for c in block]
    backs = zip(singles, _back(new.tokenizer, singles), _back(base.tokenizer, singles))
    worse = [c for c, now, before in backs if now not in (c, before) and (before == c or _kept(base, c))]
    example = ", ".join(f"U+{ord(c):04X}" for c in worse[:5])
    return Finding(7, f"code points survive ({len(characters):,})", not worse, len(worse), 0, example)


def _kept(base: Base, character: str) -> bool:
    """Whether the base's normalizer leaves this character as it is, the mark of a word's beginning aside."""
    rules = base.tokenizer.normalizer
    return rules is None or rules.normalize_str(character).replace("▁", " ").strip() == character.strip()


def _back(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    return list(tokenizer.decode_batch(encode_ids(tokenizer, texts), skip_special_tokens=False))


def _transformers(base: Base, new: Base, texts: GateTexts) -> list[Finding]:
    """9 and 10: transformers reads the folder to the same ids, chat template and special tokens; judged only where it reads the base."""
    from transformers import AutoTokenizer

    lines = [*texts.target[:200], *texts.protected[:200]]
    try:
        before = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
        agrees = before(lines, add_special_tokens=False)["input_ids"] == encode_ids(base.tokenizer, lines) if lines else True
    except Exception as error:  # whatever keeps transformers from reading the base is not the extension's doing
        return [Finding(9, "transformers reads it alike", True, f"not judged: it cannot read the base ({type(error).__name__})")]
    try:
        after = AutoTokenizer.from_pretrained(new.folder, trust_remote_code=False)
    except Exception as error:
        return [Finding(9, "transformers reads it alike", False, example=str(error)[:300])]
    example = ""
    if agrees and lines:
        pairs = zip(lines, after(lines, add_special_tokens=False)["input_ids"], encode_ids(new.tokenizer, lines))
        example = next((line[:200] for line, a, b in pairs if a != b), "")
    found = [
        Finding(
            9,
            "transformers reads it alike",
            not example,
            len(lines) if agrees else "not judged: it reads the base otherwise",
            None,
            example,
        )
    ]
    same = before.special_tokens_map == after.special_tokens_map and before.all_special_ids == after.all_special_ids
    example = (
        ""
        if same
        else f"{before.special_tokens_map} {before.all_special_ids} became {after.special_tokens_map} {after.all_special_ids}"[:300]
    )
    if not example and before.chat_template != after.chat_template:
        example = "the chat template differs"
    found.append(Finding(10, "special tokens and chat template are equal", not example, None, None, example))
    return found


def _rules(base: Base, new: Base, cfg: VocabRecipe) -> Finding:
    """11: no new token breaks a rule; single bytes that repair the base are no words and are not judged."""
    refusal = base.refusal(cfg.rules)
    repaired = {base.written(bytes([b])) for b in base.missing_bytes}
    fresh = new_pieces(base, new)
    broken = [(w, r) for w in fresh if w not in repaired and (r := refusal(new.surfaces[fresh[w]] or b"")) is not None]
    return Finding(11, "new tokens keep the rules", not broken, len(broken), 0, ", ".join(f"{w} ({r})" for w, r in broken[:5]))


def same_again(files: dict[str, bytes], folder: Path) -> Finding:
    """12: writing the files a second time gives the bytes that are on disk."""
    differ = [name for name, content in files.items() if (folder / name).read_bytes() != content]
    return Finding(12, "a second write is equal", not differ, len(files), None, ", ".join(differ))
