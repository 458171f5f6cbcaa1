"""The result for people: rows for a terminal, Markdown for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("text", "role", "documents", "bytes a token", "before", "extended", "after", "change", "95 % interval", "")


def rows_of(results: Mapping[str, Any]) -> list[list[str]]:
    """One row a text under `HEADS`, as strings; a column that no text fills (no extended model, one model only) stays empty."""
    rows = []
    for name, text in results["texts"].items():
        bits, density = text["bits_per_byte"], text["bytes_per_token"]
        before, after = _number(density["before"], 2), _number(density["after"], 2)
        change = "" if bits["delta"] is None else f"{bits['delta']:+.4f} ({100 * bits['delta'] / bits['before']:+.1f} %)"
        interval = "" if bits["low"] is None else f"{bits['low']:+.4f} to {bits['high']:+.4f}"
        rows.append(
            [
                name,
                text["role"],
                f"{text['documents']:,}",
                after if before in ("", after) else f"{before} -> {after}",
                *(_number(bits[key], 4) for key in ("before", "extended", "after")),
                change,
                interval,
                text["verdict"],
            ]
        )
    return rows


def _number(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _filled(rows: Sequence[Sequence[str]]) -> list[int]:
    """Columns that hold something."""
    return [i for i in range(len(HEADS)) if any(row[i] for row in rows)]


def table_of(results: Mapping[str, Any]) -> Table:
    """The rows as a rich table; bits per byte before, extended and after."""
    from rich.markup import escape
    from rich.table import Table

    rows = rows_of(results)
    kept = _filled(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i in kept:
        table.add_column(HEADS[i], justify="left" if i in (0, 1, len(HEADS) - 1) else "right")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in kept))
    return table


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """What may be said of each text, the protocol, the warnings."""
    protocol = results["protocol"]
    prefixes = {value or "none" for key, value in protocol["prefix"].items() if key != "tried"}
    lines = [f"{name}: {text['sentence']}" for name, text in results["texts"].items()]
    lines.append(
        f"bits per byte of held-out text; windows of {protocol['window']:,} characters, prefix {', '.join(sorted(prefixes))},"
        f" {protocol['dtype']}, protocol {protocol['hash']}"
    )
    return [*lines, *(f"warning: {warning}" for warning in results["warnings"])]


def markdown(results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """report.md: the table, what may be said, the samples."""
    rows = rows_of(results)
    kept = _filled(rows)
    body = ["# What was learned, what was forgotten", "", _line([HEADS[i] for i in kept]), _line(["---"] * len(kept))]
    body += [_line([row[i] for i in kept]) for row in rows]
    body += ["", *(f"- {line}" for line in lines_of(results))]
    if samples:
        body += ["", "## Samples", "", "Greedy continuations of openings of held-out documents, taken by a hash."]
    for sample in samples:
        body += ["", f"**{sample['text']}, {sample['document']}**", "", *_quote(sample["prompt"])]
        for name, said in [("the text itself", sample["reference"]), *sample["continuations"].items()]:
            body += ["", f"{name}:", *_quote(said)]
    return "\n".join(body) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _quote(text: str) -> list[str]:
    """As an indented block: whatever a model says, nothing in it is markup."""
    return ["", *(f"    {line}" for line in text.splitlines() or [""])]
