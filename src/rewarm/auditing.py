"""`rewarm vocab show` and `rewarm vocab check`: what an extension does to a text, and whether it kept what it had to keep."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from rewarm.comparing import cutter_of
from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.extending import check_files, settings, write_numbers
from rewarm.model.files import find_folder
from rewarm.vocab.show import GREETINGS, show, table

PROTECTED_BYTES = 10_000_000
"""Protected and target text that a check reads, chosen by a hash."""
_STYLES = {"ok": "", "broken": "bold red", "open": "dim", "detail": ""}


def show_command(new: str, against: str, texts: list[str], console: Console) -> None:
    """Prints the tokens of each text before and after."""
    if any(not text for text in texts):
        raise UserError("an empty text", where="--text", fix="give some words")
    base, extended = cutter_of(against), cutter_of(new)
    for line in table(show(base, extended, texts or list(GREETINGS))):
        console.out.print(line, soft_wrap=True)


def check_command(
    new: str,
    against: str,
    protect: list[Path],
    target: list[Path],
    max_changed_lines: float | None,
    with_model: bool,
    to: Path | None,
    console: Console,
) -> bool:
    """Prints all findings on this pair; True if nothing is broken. UserError for a base or text that cannot be used."""
    from rewarm.vocab.audit import audit, finding_lines
    from rewarm.vocab.base import open_base
    from rewarm.vocab.fuzz import GateTexts

    check_files("--protect", protect)
    check_files("--target", target)
    cfg = settings({"max_changed_lines": max_changed_lines})
    base, folder = open_base(_folder(against, with_model)), _folder(new, with_model)
    if base.folder == folder:
        raise UserError("both are the same folder", where=str(folder), fix="give the extended model first, and its base with --against")
    texts = GateTexts(_lines("--target", target, console), _lines("--protect", protect, console))
    findings = audit(base, folder, texts, cfg, with_model)
    for warning in base.findings:
        console.warn(f"the base itself: {warning}")
    for state, line in finding_lines(findings):
        console.out.print(Text(line, style=_STYLES[state]), soft_wrap=True)
    broken = sorted({f.number for f in findings if not f.ok})
    console.say("")
    if broken:
        console.say(f"{len(broken)} of 14 invariants are broken: {', '.join(map(str, broken))}")
    else:
        unjudged = sum(isinstance(f.value, str) and f.value.startswith("not judged") for f in findings)
        console.say("nothing is broken" + (f"; {unjudged} of 14 were not judged" if unjudged else ""))
    if to is not None:
        write_numbers(to, {"base": against, "new": new, "broken": broken, "findings": [f.record() for f in findings]})
        console.say(f"findings: {to}")
    return not broken


def _folder(value: str, weights: bool) -> Path:
    """A model's folder; also the folder that `vocab extend` wrote around it, or the tokenizer.json in it."""
    path = Path(value).expanduser()
    if value and path.is_file() and path.name == "tokenizer.json":
        path = path.parent
    if value and (path / "model").is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
        path = path / "model"
    return find_folder(path if value and path.exists() else value, weights)


def _lines(option: str, files: list[Path], console: Console) -> list[str]:
    """Lines to compare, of a sample."""
    from rewarm.vocab.text import compared_lines, sample_pieces

    if not files:
        return []
    sample = sample_pieces(files, PROTECTED_BYTES, 0.0, 0.0, 0)
    if sample.total_bytes > PROTECTED_BYTES:
        console.say(f"{option}: {PROTECTED_BYTES / 1e6:g} of {sample.total_bytes / 1e6:,.1f} MB are read")
    lines = compared_lines(sample.counted)
    if not lines:
        raise UserError("no text in it", where=f"{option}: {files[0]}", fix="give a file that holds text")
    return lines
