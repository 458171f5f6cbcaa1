"""The rules of the house that a machine can check: who imports whom, what starts light, what is never done."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "rewarm"
SHARED = {"errors", "atomic", "signals", "progress", "section", "registry"}
ROOMS = {"corpus", "vocab", "tokens", "train", "keep", "align", "evaluate", "export", "report", "demo"}
TORCH_FREE = ["corpus", "tokens", "vocab/merge.py", "vocab/count.py", "vocab/base.py", "vocab/encoder.py", "train/schedule.py"]
BETWEEN_ROOMS = {
    ("tokens", "vocab.encoder"),
    ("align", "train"),
    ("align", "tokens"),
    ("vocab.distill", "train"),
    ("demo.start", "run"),
    ("demo.start", "recipe"),
    ("demo.start", "console"),
}


def modules() -> dict[str, ast.Module]:
    """Dotted name below rewarm -> syntax tree."""
    out = {}
    for path in sorted(SRC.rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        out[name] = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return out


def imported(tree: ast.AST) -> list[str]:
    """Every module that a file imports, late imports included."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
    return names


def test_imports_follow_the_arrow():
    """cli, run -> rooms -> model -> torch; between rooms only the edges that are listed."""
    wrong = []
    for name, tree in modules().items():
        room = name.split(".")[0]
        for target in imported(tree):
            if not target.startswith("rewarm."):
                continue
            inner = target.removeprefix("rewarm.")
            other = inner.split(".")[0]
            if other == room or other in SHARED or room not in ROOMS | {"model"} | SHARED:
                continue
            allowed = any(name.startswith(a) and inner.startswith(b) for a, b in BETWEEN_ROOMS)
            if room in ROOMS and (other == "model" or allowed):
                continue
            wrong.append(f"rewarm.{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_rooms_that_need_no_torch_import_none():
    wrong = []
    for name, tree in modules().items():
        path = name.replace(".", "/") + ".py"
        light = any(path == f or path.startswith(f + "/") for f in TORCH_FREE) or name.endswith(".recipe")
        if light and any(t.split(".")[0] in ("torch", "transformers") for t in imported(tree)):
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("command", [["-c", "import rewarm"], ["-m", "rewarm.cli", "--help"]])
def test_the_start_is_light(command):
    """A help text that loads torch takes seconds; users notice."""
    code = "import sys, runpy\n"
    if command[0] == "-c":
        code += "import rewarm\n"
    else:
        code += (
            "sys.argv = ['rewarm', '--help']\ntry:\n    runpy.run_module('rewarm.cli', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        )
    code += "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_no_attribute_of_a_foreign_module_is_assigned():
    """No monkeypatching: registries and hooks only."""
    wrong = []
    for name, tree in modules().items():
        foreign = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                foreign |= {(a.asname or a.name).split(".")[0] for a in node.names if not a.name.startswith("rewarm")}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("rewarm"):
                foreign |= {a.asname or a.name for a in node.names if a.name[:1].isupper()}
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute):
                    root = root.value
                if isinstance(target, ast.Attribute) and isinstance(root, ast.Name) and root.id in foreign:
                    wrong.append(f"rewarm.{name}:{node.lineno} {ast.unparse(target)}")
    assert not wrong, "\n".join(wrong)


def test_nothing_unpickles_or_trusts_foreign_code():
    """Weights come as safetensors; code from a model's folder runs only if the user asks, and no recipe field does."""
    wrong = []
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("torch.load", "pickle.load", "pickle.loads", "eval", "exec", "os.system", "tarfile.open"):
                    wrong.append(f"rewarm.{name}:{node.lineno} {called}")
                for keyword in node.keywords:
                    if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False":
                        wrong.append(f"rewarm.{name}:{node.lineno} trust_remote_code")
                    if keyword.arg == "shell" and ast.unparse(keyword.value) == "True":
                        wrong.append(f"rewarm.{name}:{node.lineno} shell=True")
    assert not wrong, "\n".join(wrong)


def test_every_recipe_field_is_documented_and_read():
    """A field that nothing reads has no effect; a field without a docstring cannot be chosen."""
    from rewarm.recipe import reference

    fields = reference()
    text = "\n".join(p.read_text(encoding="utf-8") for p in SRC.rglob("*.py") if p.name != "recipe.py")
    undocumented = [f.path for f in fields if len(f.doc) < 20]
    unread = [f.path for f in fields if not re.search(rf"\.{re.escape(f.path.split('.')[-1])}\b", text)]
    assert not undocumented and not unread, (undocumented, unread)


def test_no_file_names_a_path_of_one_machine():
    root = SRC.parent.parent
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    wrong = []
    for name in names:
        path = root / name
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", "") and path.is_file() and path.name != "LICENSE":
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1):
                if re.search(r"(?<![\w.~])/(?:work|farm|root|opt|home)/\w", line):
                    wrong.append(f"{name}:{number}")
    assert not wrong, wrong
