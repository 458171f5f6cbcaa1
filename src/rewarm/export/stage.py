"""The export stage: a folder for other programs, its card, and the proof that they read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewarm.atomic import sha256_file, write_atomic, write_json
from rewarm.export.card import card
from rewarm.export.check import LINES, check_hf
from rewarm.export.hf import write_hf
from rewarm.export.recipe import ExportRecipe
from rewarm.progress import Reporter
from rewarm.signals import check_stop


def export_stage(cfg: ExportRecipe, model_dir: Path, facts: dict[str, Any], out: Path, reporter: Reporter) -> dict[str, Any]:
    """Writes `out/model` (bf16, with README.md), `out/check.json` and `out/SHA256SUMS`; returns what was written and found.

    model_dir: the Hugging Face folder of the final model. facts: what the card tells (see `card`); `prompt` is also what the check
    continues, `lines` more text that must be read alike. A rerun writes the same bytes again. Raises MachineError if transformers or
    tokenizers, each alone, read the folder otherwise than they should.
    """
    check_stop()
    told = {key: value for key, value in facts.items() if key != "lines"}
    written = write_hf(model_dir, out / "model", readme=card({**told, "licence": cfg.licence}))
    if cfg.licence is None:
        reporter.warn("export.licence is not set: look at the licences of the base and of each text before you pass the model on")
    check_stop()
    found = check_hf(out / "model", (*LINES, *facts.get("lines", ())), facts.get("prompt") or "Once upon a time")
    for line in found.changed:
        reporter.warn(f"the tokenizer does not give this line back as it was: {line!r}")
    write_json(out / "check.json", {"passed": True, **found.as_json()})
    sums = {file.name: sha256_file(file) for file in sorted((out / "model").iterdir())}
    write_atomic(out / "SHA256SUMS", "".join(f"{digest}  model/{name}\n" for name, digest in sums.items()))
    reporter.say(f"exported to {out / 'model'}: read alike by transformers and by tokenizers, {found.lines} lines, {len(sums)} files")
    return {
        "model": "model",
        **written,
        "sha256": {name: digest for name, digest in sums.items() if name.endswith(".safetensors")},
        "lines": found.lines,
        "changed_lines": len(found.changed),
        "prompt": found.prompt,
        "continuation": found.continuation,
    }
