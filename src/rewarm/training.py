"""`rewarm vocab train --kind bpe --text vi=a.txt --size 32000 --out DIR`: a tokenizer for a model that is trained from nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from rewarm.atomic import disk_errors, sweep, write_atomic, write_json
from rewarm.console import Console
from rewarm.errors import UserError
from rewarm.extending import check_files

FreshKind = Literal["bpe", "sp_bpe", "unigram", "wordpiece"]
Balance = Literal["equal", "proportional"]


def train_command(
    kind: FreshKind, texts: list[str], size: int, balance: Balance, max_mb: float, out: Path | None, console: Console
) -> None:
    """Trains the tokenizer, checks it, writes its files with `report.json` and `gate.json` to `out`.

    Raises UserError for a text that cannot be read, an `out` that is not empty, and a tokenizer that fails its checks (nothing is written).
    """
    if out is None or not texts:
        fix = "for example: rewarm vocab train --kind bpe --text text.txt --size 32000 --out DIR"
        raise UserError("give --text and --out", where="rewarm vocab train", fix=fix)
    if not max_mb > 0:
        raise UserError(f"found {max_mb:g}, expected more than 0", where="--max-mb")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("there is something already", where=f"--out: {out}", fix="choose a new folder: nothing is overwritten")
    files = _files(texts)
    from rewarm.vocab.fresh import train
    from rewarm.vocab.text import sample_pieces

    pieces = {}
    for name, paths in files.items():
        sample = sample_pieces(paths, int(max_mb * 1e6), 0.0, 0.0, 0)
        if not any(piece.strip() for piece in sample.counted):
            raise UserError(f"no text for `{name}`", where=str(paths[0]), fix="give files that hold text")
        if sample.total_bytes > max_mb * 1e6:
            console.say(f"{name}: {max_mb:g} of {sample.total_bytes / 1e6:,.1f} MB are counted (--max-mb)")
        pieces[name] = sample.counted
    fresh = train(kind, pieces, size, balance)
    for reason in fresh.facts["reasons"]:
        console.say(f"  {reason}")
    broken = [f for f in fresh.findings if not f.ok]
    if broken:
        lines = [f"{f.number}. {f.name}: {f.value} (limit {f.limit}); {f.example}" for f in broken]
        raise UserError("the tokenizer breaks what it must hold:\n" + "\n".join(lines), where=str(out), fix="this is a bug of rewarm")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        write_json(out / "gate.json", [f.record() for f in fresh.findings])
        write_json(out / "report.json", fresh.facts)
        for name, content in fresh.files.items():
            write_atomic(out / name, content)
    for name, rate in fresh.facts["bytes_per_token"].items():
        console.say(f"{name}: {rate:.2f} bytes a token on the {fresh.facts['bytes'][name] / 1e6:,.1f} MB that were counted")
    console.say(f"{fresh.facts['size']:,} tokens: {out}{os.sep}")


def _files(texts: list[str]) -> dict[str, list[Path]]:
    """Language -> files of `language=file` values; files without a language are one text of their own."""
    files: dict[str, list[Path]] = {}
    for value in texts:
        name, eq, path = value.partition("=")
        plain = not eq or Path(value).is_file()
        files.setdefault("text" if plain else name, []).append(Path(value if plain else path))
    check_files("--text", [path for paths in files.values() for path in paths])
    return files
