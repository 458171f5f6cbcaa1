"""The reference of all recipe fields, made from their docstrings: printed by `rewarm recipe`, written to docs/reference.md.

`python -m rewarm.reference docs/reference.md` writes the page; with `--check` it fails when the page differs from the code.
"""

from __future__ import annotations

import sys
from pathlib import Path

from rewarm.console import Console
from rewarm.errors import UserError, did_you_mean
from rewarm.recipe import FieldHelp, reference


def show_reference(prefix: str | None, console: Console) -> None:
    """Prints all fields, or those whose path begins with `prefix`."""
    fields = reference()
    if prefix:
        kept = [f for f in fields if f.path.startswith(prefix)]
        if not kept:
            sections = sorted({f.path.split(".")[0] for f in fields})
            fix = did_you_mean(prefix, [*sections, *(f.path for f in fields)]) or f"sections: {', '.join(sections)}"
            raise UserError("no field begins so", where=prefix, fix=fix)
        fields = kept
    from rich.markup import escape

    for field in fields:
        console.out.print(f"[bold]{escape(field.path)}[/bold]  {escape(field.kind)}  default: {escape(field.default)}")
        console.out.print(f"    {escape(field.doc)}")
    console.say(f"{len(fields)} fields; override any on the command line as {fields[0].path.replace('[]', '[0]')}=value")


def page(fields: list[FieldHelp]) -> str:
    """The reference as Markdown."""
    lines = [
        "# Recipe reference",
        "",
        "Made from the code by `make docs`; do not edit. Shares are 0..1; a list's items are counted from 0 in overrides",
        "(`corpus.sources[0].licence=CC0-1.0`).",
    ]
    section = None
    for field in fields:
        head = field.path.split(".")[0] if "." in field.path else "run"
        if head != section:
            section = head
            lines += ["", f"## {head}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
        cells = (f"`{field.path}`", field.kind, f"`{field.default}`", field.doc)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    target = Path(arguments[0])
    text = page(reference())
    if "--check" in arguments:
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            print(f"{target} differs from the recipe's docstrings: run `make docs` and commit it", file=sys.stderr)
            return 1
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
