"""`summary.json` and the table that ends a run: what was learned, what was forgotten, and how sure that is."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from rewarm.console import Console


def summarise(results: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The run's summary with the stable metric names.

    results: `results.json` of the evaluation. facts: seconds, tokens_per_second, peak_memory_gib and paths. `new` and `old` are the first
    text of each role; a role without text is None, so that a reader sees that nothing was measured.
    """
    texts = {
        name: {
            "role": text["role"],
            "bytes_per_token": text["bytes_per_token"],
            "bits_per_byte": {k: text["bits_per_byte"].get(k) for k in ("before", "extended", "after", "delta", "low", "high")},
            "documents": text["documents"],
            "bytes": text["bytes"],
            "verdict": text["verdict"],
        }
        for name, text in results["texts"].items()
    }
    first = {role: next((t for t in texts.values() if t["role"] == role), None) for role in ("new", "old")}
    return {"format": 1, "new": first["new"], "old": first["old"], "texts": texts, **facts}


def table_of(summary: dict[str, Any]) -> Table:
    """One row a text: bytes a token and bits per byte before and after, the change with its interval."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    heads = (
        ("text", "left"),
        ("bytes a token", "right"),
        ("bits per byte", "right"),
        ("change", "right"),
        ("95 % interval", "right"),
        ("", "left"),
    )
    for head, justify in heads:
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for name, text in summary["texts"].items():
        tokens, bits = text["bytes_per_token"], text["bits_per_byte"]
        change = f"{bits['delta']:+.3f} ({100 * bits['delta'] / bits['before']:+.1f} %)"
        interval = "too little text" if bits["low"] is None else f"{bits['low']:+.3f} to {bits['high']:+.3f}"
        table.add_row(
            f"{name} ({text['role']})",
            f"{tokens['before']:.2f} -> {tokens['after']:.2f}",
            f"{bits['before']:.3f} -> {bits['after']:.3f}",
            change,
            interval,
            text["verdict"],
        )
    return table


def sentence(summary: dict[str, Any]) -> list[str]:
    """What the numbers mean, in words; also what they cannot show."""
    lines = []
    new, old = summary["new"], summary["old"]
    if new is not None:
        bits = new["bits_per_byte"]
        lines.append(
            f"Learned: held-out new text takes {-100 * bits['delta'] / bits['before']:.0f} % fewer bits per byte"
            f" ({bits['before']:.3f} to {bits['after']:.3f})"
            if bits["delta"] < 0
            else f"Not learned: held-out new text takes {bits['delta']:+.3f} bits per byte more than before"
        )
    else:
        lines.append("Learned: not measured, no new text was held out (corpus.heldout)")
    if old is not None:
        bits = old["bits_per_byte"]
        if bits["low"] is None:
            lines.append(f"Forgotten: undecided, {old['documents']} held-out documents of old text are too few for an interval")
        elif bits["low"] > 0:
            lines.append(f"Forgotten: old text takes {bits['delta']:+.3f} bits per byte more ({bits['low']:+.3f} to {bits['high']:+.3f})")
        elif bits["high"] < 0:
            span = f"95 %: {bits['low']:+.3f} to {bits['high']:+.3f}"
            lines.append(f"Forgotten: nothing seen, old text even takes {-bits['delta']:.3f} bits per byte less ({span})")
        else:
            lines.append(f"Forgotten: no change seen ({bits['delta']:+.3f}, 95 %: {bits['low']:+.3f} to {bits['high']:+.3f} bits per byte)")
    elif any(source["role"] == "replay" for source in summary["sources"]):
        lines.append("Forgotten: NOT measured, no old text was held out (corpus.heldout)")
    else:
        lines.append(
            "Forgotten: NOT measured. There is no old text, so nothing here shows what the model lost. Give a source with `role: replay`:"
            " text like what the base was trained on, such as Wikipedia in its languages, or any text you need it to keep"
        )
    return lines


def show_summary(summary: dict[str, Any], console: Console, warnings: list[str]) -> None:
    console.out.print()
    if summary["texts"]:
        console.out.print(table_of(summary))
        console.out.print()
    for line in sentence(summary):
        console.say(line)
    for note in summary.get("notes", []):
        console.say(f"Note: {note}")
    if warnings:
        console.say(f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} on the way:")
        for text in dict.fromkeys(warnings):
            console.say(f"  - {text}")
