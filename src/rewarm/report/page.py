"""The page: facts and drawings into one HTML file that loads nothing, complete without its script.

Everything foreign (source names, samples, recipe) goes through `visible` and jinja2's escaping. A content policy in the head allows this
one style sheet and this one script, by hash, and nothing else: even markup that slipped through could neither run nor load.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from rewarm.atomic import write_atomic
from rewarm.errors import MachineError, UserError
from rewarm.report import drawings, facts, figures, say
from rewarm.report.files import STAGES, RunFiles
from rewarm.report.words import tokens_of

MOST_BYTES = 3_000_000
TITLE = "report of a rewarm run</title>"
"""Ends the page's title, and tells a report from other files."""


def report_page(run_folder: Path, out: Path) -> dict[str, Any]:
    """Writes the page of the run in `run_folder` to the file `out`; returns report (its path from the run folder), bytes, sha256, missing.

    missing: what the run did not leave behind, in the page's words. The same files give the same bytes. An earlier report is replaced;
    raises UserError for any other file in its place, and where there is no run.
    """
    _check_place(Path(out))
    values = gather(RunFiles(Path(run_folder)), Path(out))
    page = render(values).encode()
    if len(page) > MOST_BYTES:
        raise MachineError(
            f"the page came to {len(page):,} bytes, above {MOST_BYTES:,}", where=str(out), fix="this is a bug of rewarm's report"
        )
    write_atomic(Path(out), page)
    return {
        "report": os.path.relpath(out, run_folder), "bytes": len(page), "sha256": hashlib.sha256(page).hexdigest(),
        "missing": values["missing"],
    }  # fmt: skip


def _check_place(out: Path) -> None:
    if out.is_dir():
        raise UserError("a folder", where=str(out), fix="give the file that the page is to be written to")
    if out.exists() and TITLE not in out.read_bytes()[:8192].decode(errors="replace"):
        raise UserError("there is a file that is no report", where=str(out), fix="choose another place with --out: nothing is overwritten")


def gather(run: RunFiles, out: Path) -> dict[str, Any]:
    """All values that the template shows."""
    measured, came_from, trained = facts.texts(run), facts.sources(run), facts.training(run)
    lines, looks = facts.curves(run)
    said = facts.samples(run)
    words = facts.vocabulary(run, measured)
    base = facts.base(run)
    roles = {s["name"]: "new" if s["role"] == "new" else "old" for s in came_from} | {t["name"]: t["role"] for t in measured}
    warnings, notes = facts.said(run)
    provenance = facts.provenance(run)
    seconds = sum(stage["seconds"] or 0.0 for stage in provenance["stages"])
    mixback = run.fields("mixback", "mixback.json") or run.facts("mixback")
    values = {
        "name": str(run.recipe.get("name") or run.folder.name), "base": base,
        "opening": say.opening(base, came_from, trained, seconds, "export" in run.stages), "tiles": say.tiles(measured),
        "warnings": warnings, "notes": notes, "most_warnings": facts.MOST_WARNINGS,
        "texts": measured[: facts.MOST_TEXTS], "left_out_texts": len(measured) - facts.MOST_TEXTS,
        "meanings": say.meanings(measured), "stages": list(run.stages), "begun": list(run.begun),
        "intervals": drawings.intervals(measured[: facts.MOST_TEXTS]), "mixback": mixback, "mixed_back": say.mixed_back(mixback),
        "sources": [{**s, "bar": drawings.divided(s)} for s in came_from[: facts.MOST_SOURCES]],
        "left_out_sources": len(came_from) - facts.MOST_SOURCES, "dropped": facts.dropped(run), "training": trained,
        "lines": lines, "looks": looks, "loss": drawings.loss(lines), "training_bits": drawings.training_bits(lines, roles),
        "probed": drawings.probed_bits(looks, roles), "source_names": list(dict.fromkeys(n for line in lines for n in line.sources)),
        "probe_names": list(dict.fromkeys(n for look in looks for n in look.texts)),
        "levels": {n: drawings.base_level(looks, n) for n in roles},
        "words": words, "size_curve": drawings.size_curve(words["curve"]), "cuts": facts.cuts(run, said, words["extended"]),
        "samples": said, "use": _use(run, out), "limits": say.limits(base, came_from, measured), "provenance": provenance,
    }  # fmt: skip
    return {**values, "missing": _missing(run, values), "data": _data(run, measured)}


def _use(run: RunFiles, out: Path) -> dict[str, str] | None:
    """The exported model's folder from where the page lies, and a prompt; None if nothing was exported."""
    folder = run.path("export", str(run.facts("export").get("model") or "model"))
    if folder is None or "export" not in run.stages:
        return None
    place = Path(os.path.relpath(folder, out.parent)).as_posix()
    prompt = str(run.facts("export").get("prompt") or "Once upon a time")
    return {
        "folder": place, "folder_code": repr(place), "prompt_code": repr(prompt),
        "command": f"python -m rewarm.export.generate {shlex.quote(place)} {shlex.quote(prompt)}",
    }  # fmt: skip


def _missing(run: RunFiles, values: dict[str, Any]) -> list[str]:
    """What a reader would look for and not find, each as a sentence."""
    out = []
    ended = [name for name in STAGES if name in run.stages]
    if "export" not in run.stages:
        begun = f"; begun: {figures.listed([name for name in STAGES if name in run.begun])}" if run.begun else ""
        out.append(f"This run did not come to its end. Finished stages: {figures.listed(ended) or 'none'}{begun}.")
    if run.later:
        out.append(
            f"A later call on this folder began and did not end ({figures.listed(run.later)}): this is the page of the one that did."
        )
    if not values["texts"]:
        out.append("No text was measured, so what was learned and what was forgotten are unknown.")
    else:
        out += [
            f"No {role} text was measured: {what} is unknown."
            for role, what in (("new", "what was learned"), ("old", "what was forgotten"))
            if not any(t["role"] == role for t in values["texts"])
        ]
    if values["sources"] and not any(s["role"] == "replay" for s in values["sources"]):
        out.append("No old text was mixed in during training (no source has role replay).")
    if "train" in run.stages and not values["lines"]:
        out.append("There are no training metrics, so there are no curves.")
    if "evaluate" in run.stages and not values["samples"]:
        out.append("No samples were made.")
    if not values["cuts"]:
        out.append("The base's tokenizer is not at hand, so no sentence could be cut into its tokens.")
    return [*out, *(f"Could not be read: {what}." for what in run.unread)]


def _data(run: RunFiles, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """What other programs may read out of the page."""
    results = run.fields("evaluate", "results.json")
    return {
        "format": 1,
        "summary": {k: v for k, v in run.summary.items() if k != "recipe"},
        "texts": results.get("texts") or measured,
        "protocol": results.get("protocol") or {},
    }


def script_json(value: Any) -> Markup:
    """JSON for a <script> element: ASCII, and no `<`, `>` or `&` that could end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def render(values: dict[str, Any]) -> str:
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; style-src '{_sha(style)}'; script-src '{_sha(script)}'; base-uri 'none'; form-action 'none'"
    head = {"style": Markup(style), "script": Markup(script), "policy": policy, "data_json": script_json(values["data"])}
    return environment().from_string(_asset("page.html.j2")).render({**values, **head})


def _asset(name: str) -> str:
    return (files("rewarm.report") / name).read_text(encoding="utf-8")


def _sha(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def environment() -> Environment:
    """jinja2 that escapes every value, stops at an unknown name, and shows what hides in foreign text."""
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    for name in ("count", "digits", "signed", "percent", "megabytes", "duration", "several", "listed", "cut"):
        made.filters[name] = getattr(figures, name)
    made.filters["tokens_of"] = tokens_of
    made.filters["lang"] = _lang
    for name in ("span", "change", "verdict_words", "named", "spoken"):
        made.globals[name] = getattr(say, name)
    return made


def _shown(value: Any) -> Any:
    return value if hasattr(value, "__html__") else figures.visible(value)


def _lang(code: Any) -> Markup:
    """` lang="vi"` so that the right font is taken; nothing for what is no language code."""
    return Markup(' lang="{}"').format(code) if isinstance(code, str) and re.fullmatch(r"[a-z]{2,3}", code) else Markup("")
