"""Teach a tokenizer the words of other languages, and see what it does to a greeting in each.

    python examples/extend_vocabulary.py BASE OUT zh=chinese.txt ja=japanese.jsonl ko=... vi=... protect=english.parquet [size=16000]

BASE is a model's folder, OUT a folder that is not there yet; several files of a language are given one by one. Without arguments it takes
the demo's base (`make demo` fetches it) and the texts in the folder that REWARM_DATA names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rewarm.console import Console
from rewarm.vocab.readers import open_cutter
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.show import GREETINGS, show, table
from rewarm.vocab.stage import extend


def main(base: Path, out: Path, texts: dict[str, list[Path]], size: int) -> None:
    """Extends, then prints the five greetings before and after."""
    console = Console()
    protect = texts.pop("protect")  # old text: its tokens must stay what they are
    facts = extend(base, texts, protect, out, VocabRecipe(extend=True, size=size), reporter=console)
    for name, tokens in facts["bytes_per_token"].items():
        console.say(f"{name}: {tokens['before']:.2f} -> {tokens['after']:.2f} bytes a token")
    for line in table(show(open_cutter(base), open_cutter(out / "model"), list(GREETINGS))):
        console.out.print(line, soft_wrap=True)


def default_texts() -> dict[str, list[Path]]:
    """vi, zh, ja, ko and protected English of REWARM_DATA."""
    folder = Path(os.environ.get("REWARM_DATA") or sys.exit(__doc__)) / "train"
    return {name: sorted(folder.glob(f"{'en' if name == 'protect' else name}[._]*parquet")) for name in ("vi", "zh", "ja", "ko", "protect")}


if __name__ == "__main__":
    given = [argument.partition("=") for argument in sys.argv[3:]]
    size = next((int(value) for name, _, value in given if name == "size"), 16_000)
    names = dict.fromkeys(name for name, _, _ in given if name != "size")
    files = {name: [Path(value) for key, _, value in given if key == name] for name in names}
    if len(sys.argv) == 1:
        main(next(iter(sorted(Path("runs/demo").glob("base-*/model"))), Path("runs/demo")), Path("runs/greetings"), default_texts(), size)
    elif "protect" in files and len(files) > 1:
        main(Path(sys.argv[1]), Path(sys.argv[2]), files, size)
    else:
        sys.exit(__doc__)
