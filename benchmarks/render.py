"""Renders `benchmarks/results/*.json` into docs/benchmarks.md, and vocab.json, which is too long for that page, into docs/vocabulary.md.

With `--check` it fails when a page differs from the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import render_vocab

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
OWN_PAGE = {"vocab": ("vocabulary.md", render_vocab.page)}


def table(result: dict) -> list[str]:
    lines = [
        f"## {result['benchmark']}",
        "",
        f"{result['date']}, {result['device']}, commit {result['commit']}; "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k in ("python", "torch", "transformers")),
        "",
        "| system | case | metric | value | unit | runs |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        case = ", ".join(f"{k} {v}" for k, v in row["case"].items())
        value = row["value"]
        shown = value if isinstance(value, str) else f"{value:,.6g}"
        lines.append(f"| {row['system']} | {case} | {row['metric']} | {shown} | {row['unit']} | {len(row.get('runs', [value]))} |")
    return [*lines, ""]


def page() -> str:
    lines = [
        "# Benchmarks",
        "",
        "Rendered from `benchmarks/results/` by `make docs`; each file is written by the script of the same name.",
        "",
    ]
    for path in sorted((HERE / "results").glob("*.json")):
        if path.stem in OWN_PAGE:
            name = OWN_PAGE[path.stem][0]
            lines += [f"## {path.stem}", "", f"Its tables are on a page of their own: [{name}]({name}).", ""]
        else:
            lines += table(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """File in docs/ -> its text."""
    results = {path.stem: path for path in sorted((HERE / "results").glob("*.json"))}
    own = {
        name: render(json.loads(results[stem].read_text(encoding="utf-8"))) for stem, (name, render) in OWN_PAGE.items() if stem in results
    }
    return {"benchmarks.md": page(), **own}


def main() -> int:
    stale = False
    for name, text in pages().items():
        file = DOCS / name
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            print(f"docs/{name} differs from benchmarks/results: run `make docs` and commit it", file=sys.stderr)
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
