"""Renders `benchmarks/results/*.json` into docs/benchmarks.md; with `--check` it fails when the page differs from the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"


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
        lines += table(json.loads(path.read_text(encoding="utf-8")))
    return "\n".join(lines)


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print("docs/benchmarks.md differs from benchmarks/results: run `make docs` and commit it", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(HERE.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
