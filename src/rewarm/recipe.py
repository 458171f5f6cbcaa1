"""The one configuration of a run: YAML 1.2 in, frozen sections out, and every error with its line.

Each room's section lives in `<room>/recipe.py` beside the code that reads it. YAML 1.2 (ruamel.yaml), because 1.1 reads `6e-4` as a
string, `1:30` as 90 and the language `no` as false. Overrides (`train.lr=6e-4`) go through the same reader, so a value means the same in
both places. All wrong fields are reported in one go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from rewarm.corpus.recipe import CorpusRecipe
from rewarm.errors import UserError, did_you_mean
from rewarm.evaluate.recipe import EvaluateRecipe
from rewarm.export.recipe import ExportRecipe
from rewarm.keep.recipe import KeepRecipe
from rewarm.model.recipe import ModelRecipe
from rewarm.section import Section
from rewarm.tokens.recipe import MixtureRecipe, TokensRecipe
from rewarm.train.recipe import TrainRecipe
from rewarm.vocab.recipe import VocabRecipe


class Recipe(Section):
    """A whole run, from raw text to a proven model."""

    name: str = ""
    """Name of the run: its folder is `runs/<name>`, and the model card's title. Default: the recipe's file name without its ending."""
    model: ModelRecipe
    """The base model."""
    corpus: CorpusRecipe
    """The text: what is new, what is old, and how it is cleaned and split."""
    vocab: VocabRecipe = VocabRecipe()
    """How the tokenizer grows."""
    tokens: TokensRecipe = TokensRecipe()
    """How documents become rows of tokens."""
    mixture: MixtureRecipe = MixtureRecipe()
    """How much of each text a step reads."""
    train: TrainRecipe = TrainRecipe()
    """The training itself."""
    keep: KeepRecipe = KeepRecipe()
    """What is done against forgetting."""
    evaluate: EvaluateRecipe = EvaluateRecipe()
    """How learning and forgetting are measured."""
    export: ExportRecipe = ExportRecipe()
    """The model that is handed over."""

    @field_validator("name")
    @classmethod
    def _a_name_is_a_folder(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
            raise ValueError("letters, digits, `.`, `_` and `-` only, at most 80, as it names a folder")
        return name


@dataclass(frozen=True)
class Loaded:
    """A recipe with the folder that its relative paths start from."""

    recipe: Recipe
    root: Path
    path: Path | None = None


def load_recipe(path: Path, overrides: list[str] | tuple[str, ...] = (), root: Path | None = None) -> Loaded:
    """Reads a recipe file and applies `a.b=c` overrides.

    Relative paths in it start from `root`, by default the file's folder. Raises UserError with file, line, field, the value found and what
    was expected, all wrong fields at once.
    """
    tree, lines = _read_yaml(path)
    for text in overrides:
        _apply(tree, lines, text)
    recipe = _validate(tree, lines, str(path))
    if not recipe.name:
        recipe = recipe.model_copy(update={"name": re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).strip("-.") or "run"})
    return Loaded(recipe, (root or path.parent).resolve(), path)


def _yaml() -> YAML:
    reader = YAML(typ="rt", pure=True)
    reader.version = (1, 2)
    reader.allow_duplicate_keys = False
    return reader


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple, int | None]]:
    if path.is_dir():
        raise UserError("a folder, not a file", where=str(path), fix="give the path of a recipe (YAML)")
    if not path.is_file():
        near = [p.name for p in sorted(path.parent.glob("*.y*ml"))] if path.parent.is_dir() else []
        raise UserError("no such file", where=str(path), fix=did_you_mean(path.name, near) or "give the path of a recipe (YAML)")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start})", where=str(path), fix="save the recipe as UTF-8") from None
    try:
        tree = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        problem = (error.problem or "not YAML").splitlines()[0]
        raise UserError(problem, where=where, fix="mend the YAML at this line") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"not YAML 1.2: {error}", where=str(path)) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(
            f"a recipe is a mapping of sections, this is a {'list' if isinstance(tree, list) else 'single value'}", where=str(path)
        )
    lines: dict[tuple, int | None] = {}
    return _plain(tree, (), lines), lines


def _plain(node: Any, at: tuple, lines: dict[tuple, int | None]) -> Any:
    """Plain dicts, lists and scalars out of ruamel's; fills `lines` with the line of each key and item (None: the command line's)."""
    if isinstance(node, dict):
        out = {}
        for key, value in node.items():
            if hasattr(node, "lc"):
                lines[(*at, key)] = node.lc.key(key)[0] + 1
            out[str(key) if not isinstance(key, str) else key] = _plain(value, (*at, key), lines)
        return out
    if isinstance(node, list):
        for i in range(len(node)):
            if hasattr(node, "lc"):
                lines[(*at, i)] = node.lc.item(i)[0] + 1
        return [_plain(value, (*at, i), lines) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)


def _apply(tree: dict[str, Any], lines: dict[tuple, int | None], text: str) -> None:
    name, eq, raw = text.partition("=")
    steps = re.findall(r"[^.\[\]]+", name)
    if not eq or not steps:
        raise UserError(f"`{text}` is no override", where="command line", fix="write field=value, as train.max_minutes=20")
    try:
        value = _plain(_yaml().load(raw), (), {}) if raw.strip() else None
    except YAMLError:
        raise UserError(f"the value `{raw}` is not YAML", where=f"override {name}") from None
    node: Any = tree
    at: tuple = ()
    for step, after in zip(steps, [*steps[1:], None]):
        key: Any = step
        if isinstance(node, list):
            if not step.isdigit() or int(step) >= len(node):
                raise UserError(f"no item `{step}`: the list has {len(node)}", where=f"override {name}", fix="count from 0")
            key = int(step)
        elif not isinstance(node, dict):
            raise UserError(f"`{'.'.join(map(str, at))}` holds a value, not a section", where=f"override {name}")
        at = (*at, key)
        if after is None:
            node[key] = value
            for known in [k for k in lines if k[: len(at)] == at]:
                del lines[known]
            lines[at] = None
        else:
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[key]


def _validate(tree: dict[str, Any], lines: dict[tuple, int | None], file: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = list(problems_of(error, tree))
    blocks = []
    for at, found, expected, fix in problems:
        known = next((at[:n] for n in range(len(at), 0, -1) if at[:n] in lines), None)
        line = lines[known] if known else None
        place = f"{file}, line {line}" if line else ("command line" if known else file)
        blocks.append("\n  ".join(x for x in (f"{place}: {dotted(at)}", found, expected, fix) if x))
    raise UserError("\n".join(blocks))


def dotted(at: tuple) -> str:
    """`("corpus", "sources", 0, "name")` as `corpus.sources[0].name`."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).lstrip(".")


def problems_of(
    error: ValidationError, tree: dict[str, Any], section: type[BaseModel] = Recipe
) -> Iterator[tuple[tuple, str, str, str | None]]:
    """(field, what was found, what was expected, what to do), one for each wrong field: a union's branches are told together.

    tree: what was read; section: what it was read as.
    """
    grouped: dict[tuple, list[Any]] = {}
    for item in error.errors():
        grouped.setdefault(_field_of(item["loc"], tree, missing=item["type"] == "missing"), []).append(item)
    for at, items in grouped.items():
        first = items[0]
        if first["type"] == "extra_forbidden":
            known = _fields_at(at[:-1], section)
            yield at, f"no such field{_shown_value(first)}", "", did_you_mean(str(at[-1]), known) or f"known here: {', '.join(known)}"
        elif first["type"] == "missing":
            yield at, "missing, and it has no default", "", f"`rewarm recipe {at[0]}` says what it is"
        else:
            wanted = " or ".join(dict.fromkeys(_expected(i) for i in items)).replace(" or expected ", " or ")
            yield at, _shown_value(first).removeprefix(": "), wanted, None


def _shown_value(item: Any) -> str:
    """`: found '1 %'`, or nothing for what would fill the screen."""
    found = item.get("input")
    return "" if isinstance(found, dict | list | BaseModel) else f": found {found!r}"


def _expected(item: Any) -> str:
    if item["type"] in ("model_type", "dict_type"):
        return "expected a section: `name: value` pairs"
    message = str(item["msg"]).removeprefix("Value error, ").partition(", unable to parse ")[0].removesuffix(" after validation, not 0")
    for told, plain in (("Input should be ", "expected "), ("List should have ", "expected "), ("String should have ", "expected ")):
        message = message.replace(told, plain)
    return message


def _field_of(loc: tuple, tree: Any, missing: bool) -> tuple:
    """Cuts the names of a union's branches off pydantic's location, by walking the tree that was read."""
    at: list[Any] = []
    node = tree
    for i, step in enumerate(loc):
        inside = (isinstance(node, dict) and step in node) or (isinstance(node, list) and isinstance(step, int) and step < len(node))
        if inside:
            node = node[step]
            at.append(step)
        elif missing and i == len(loc) - 1:
            at.append(step)
        elif isinstance(node, dict | list):
            continue
        else:
            break
    return tuple(at)


def _fields_at(at: tuple, section: type[BaseModel]) -> list[str]:
    """Names of the fields of the section at this place below `section`."""
    here: Any = section
    for step in at:
        if isinstance(step, int):
            continue
        field = here.model_fields.get(step) if here is not None else None
        here = _section_in(field.annotation) if field else None
        if here is None:
            return []
    return list(here.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section class inside an annotation, as `list[Source]` or `Source | None`, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _section_in(part)
        if found:
            return found
    return None


@dataclass(frozen=True)
class FieldHelp:
    """One line of the reference: where the field stands, its type, its default and its docstring."""

    path: str
    kind: str
    default: str
    doc: str


def reference(section: type[BaseModel] = Recipe, prefix: str = "") -> list[FieldHelp]:
    """Every field of the recipe in order, sections unfolded: what `rewarm recipe` prints and docs/reference.md holds."""
    out: list[FieldHelp] = []
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        inner = _section_in(field.annotation)
        if inner is not None:
            is_list = "list" in str(field.annotation) or "tuple" in str(field.annotation)
            out += reference(inner, f"{path}[]." if is_list else f"{path}.")
            continue
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        out.append(FieldHelp(path, _kind(field.annotation), default, " ".join((field.description or "").split())))
    return out


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, list | dict | tuple) else str(value)


def _kind(annotation: Any) -> str:
    if isinstance(annotation, type) and not getattr(annotation, "__args__", ()):
        return annotation.__name__
    text = re.sub(r"typing\.|annotated_types\.|rewarm\.[a-z.]*", "", str(annotation))
    text = re.sub(r"Annotated\[([^,\[\]]+), [^\]]*\]", r"\1", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda m: m.group(1).replace("'", "").replace(", ", " | "), text)
    return text.replace("NoneType", "none").replace("None", "none")
