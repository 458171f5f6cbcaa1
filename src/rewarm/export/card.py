"""The model card: what the model is, what it was trained on, what was measured, and its limits, as a README.md that the hub reads too.

Every value that the template prints is escaped, so that a source called `x | y <script>` stays text in a table and in HTML; what goes
into the head or into code is written as JSON or as a Python string instead.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


def card(facts: dict[str, Any]) -> str:
    """README.md of a model. The same facts give the same text.

    facts, each part optional: name; licence; prompt; base {name, licence, stored_as, languages}; sources [{name, role, languages, licence,
    documents, bytes}]; texts {name: {role, bytes_per_token, bits_per_byte, documents}} as in a run's summary; training {tokens, steps,
    seconds}; vocabulary {new_tokens, true_vocab}; mixback (share kept, 0..1); warnings [str].
    """
    base = {"name": None, "licence": None, "stored_as": None, "languages": [], **(facts.get("base") or {})}
    sources = facts.get("sources") or []
    languages = dict.fromkeys([*base["languages"], *(x for source in sources for x in source.get("languages") or [])])
    texts = [{"name": name, **text} for name, text in (facts.get("texts") or {}).items()]
    values = {
        "name": facts.get("name") or "model",
        "licence": facts.get("licence"),
        "prompt": facts.get("prompt") or "Once upon a time",
        "base": base,
        "hub_name": base["name"] if re.fullmatch(r"[\w.-]+/[\w.-]+", base["name"] or "") else None,
        "languages": list(languages),
        "sources": sources,
        "new": [source for source in sources if source.get("role") == "new"],
        "texts": texts,
        "training": facts.get("training"),
        "vocabulary": facts.get("vocabulary"),
        "mixback": facts.get("mixback"),
        "limits": limits(base, sources, texts, facts.get("warnings") or []),
    }
    text = _environment().from_string((files("rewarm.export") / "card.md.j2").read_text(encoding="utf-8")).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def limits(base: dict[str, Any], sources: list[dict[str, Any]], texts: list[dict[str, Any]], warnings: list[str]) -> list[str]:
    """What the numbers do not show, in plain words."""
    out = []
    if kinds := [kind for kind in base["stored_as"] or {} if kind.startswith(("Q", "IQ", "TQ"))]:
        out.append(
            f"The base came from a quantised file ({', '.join(kinds)}): training also heals what quantisation broke, "
            "so less seems forgotten than would be from full weights."
        )
    replayed = {source["name"] for source in sources if source.get("role") == "replay"}
    if same := [text["name"] for text in texts if text["role"] == "old" and text["name"] in replayed]:
        out.append(f"Held-out {', '.join(same)} is of the same source as the replayed text; other old text may have been forgotten more.")
    if not any(text["role"] == "old" for text in texts):
        out.append("No old text was measured: what was forgotten is unknown.")
    out.append("It continues text. It was not tested for following instructions, for truth or for safety after this training.")
    return [*out, *warnings]


def escape(value: Any) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    text = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", text)


def _environment() -> Environment:
    """jinja2 with every printed value escaped, but for those that a filter below has marked as finished."""
    made = Environment(
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape(value),
    )
    made.filters["tojson"] = lambda value: Markup(json.dumps(value, ensure_ascii=False))  # JSON is YAML
    made.filters["python"] = lambda value: Markup(repr(str(value)))
    made.filters["count"] = lambda value: "-" if value is None else f"{value:,}"
    made.filters["digits"] = lambda value, places: "-" if value is None else f"{value:.{places}f}"
    made.filters["signed"] = lambda value: "-" if value is None else f"{value:+.3f}"
    made.filters["interval"] = _interval
    return made


def _interval(bits: dict[str, Any]) -> str:
    low, high = bits.get("low"), bits.get("high")
    return "too little text" if low is None or high is None else f"{low:+.3f} to {high:+.3f}"
