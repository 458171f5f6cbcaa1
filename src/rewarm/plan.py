"""`rewarm plan`: what a run will do, before anything is trained or written: text, tokens, steps, mixture, schedule, memory.

Tokens are counted exactly where a source is small, else from its first megabytes; with a vocabulary extension the run reads fewer tokens
than the base's tokenizer gives, which is said and not guessed. Time and memory come from a few real steps (`rewarm.measuring`).
"""

from __future__ import annotations

import json
import struct
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from rewarm.console import Console, duration, quantity
from rewarm.corpus.language import look, told
from rewarm.corpus.plan import PACKED, source_files
from rewarm.corpus.read import Tally, read_file
from rewarm.forecast import Forecast, TextSize, forecast
from rewarm.measuring import Measured, SampleText, measure
from rewarm.planning import Lengths, check_guard, check_recipe, lengths, replay_share
from rewarm.progress import Silent
from rewarm.recipe import Loaded, Recipe
from rewarm.rooms import checked_base, device_of, length_is_set
from rewarm.tokens.enough import check_enough
from rewarm.tokens.positions import check_row_tokens, positions_of
from rewarm.train.schedule import auto_lr, lr_factor, warmup_steps

SAMPLE_BYTES = 2_000_000
SAMPLE_FILES = 16
GUESSED_TOKENS = 8_000
"""New tokens that time and memory are measured with where `vocab.size` is `auto`."""


@dataclass(frozen=True)
class SourcePlan:
    """A source as it lies there. tokens: of the base's tokenizer, end tokens included; `exact` if all of it was read. wrong: how much does
    not look like its languages, in words; None if little."""

    name: str
    role: str
    languages: list[str]
    files: int
    documents: int
    bytes: int
    tokens: int
    exact: bool
    sample: tuple[str, ...] = field(default=(), repr=False)
    wrong: str | None = None


@dataclass(frozen=True)
class Plan:
    """What was derived, and from what."""

    base: dict[str, Any]
    sources: list[SourcePlan]
    replay: float
    replay_why: str
    lengths: Lengths
    lr: float
    device: str
    measured: Measured | None
    forecast: Forecast | None
    notes: list[str] = field(default_factory=list)
    schedule: list[tuple[int, float]] = field(default_factory=list)


def plan_recipe(loaded: Loaded, console: Console, *, measured: bool = True) -> Plan:
    """Looks at base and text and derives the run; raises UserError for whatever would stop it. measured: also takes a few training steps,
    for time and memory."""
    recipe, root = loaded.recipe, loaded.root
    check_recipe(recipe)
    base = _base(loaded)
    encode = base.pop("encode")
    sources = []
    for i, source in enumerate(recipe.corpus.sources):
        with console.bar(source.name, None, "documents"):
            sources.append(_look(source, source_files(source, root, f"corpus.sources[{i}]"), encode))
    new = [s for s in sources if s.role == "new"]
    old = [s for s in sources if s.role == "replay" and s.documents]
    replay, why = replay_share(recipe.mixture, [set(s.languages) for s in new], [set(s.languages) for s in old])
    device = device_of(recipe)
    new_tokens = sum(s.tokens for s in new)
    plan = lengths(recipe.train, recipe.tokens, new_tokens, replay, device)
    row = recipe.tokens.row_tokens
    table = [{"name": s.name, "role": s.role, "tokens": s.tokens, "rows": -(-s.tokens // row)} for s in sources]
    repeats = check_enough(table, plan.batch_rows, row, plan.steps or 1, replay=replay, length_is_set=length_is_set(recipe))
    check_guard(recipe)
    lr = recipe.train.lr if recipe.train.lr != "auto" else auto_lr(base["parameters"])
    notes = [x for x in (repeats, check_row_tokens(base["positions"], row)) if x]
    notes += [f"source `{s.name}`: {s.wrong}{'' if s.exact else ' (as far as it was looked at)'}" for s in sources if s.wrong]
    if recipe.vocab.extend is not False:
        shorter = "" if length_is_set(recipe) else ", so the run will be shorter than this"
        notes.append(f"tokens are the base's; the extended tokenizer will need fewer for the new text{shorter}")
    if not old:
        notes.append("without old text nothing will show what was forgotten")
    steps = plan.steps or 0
    marks = sorted({0, warmup_steps(recipe.train, steps), steps // 4, steps // 2, 3 * steps // 4, steps - 1}) if steps else []
    schedule = [(s, lr * lr_factor(s, recipe.train, steps)) for s in marks if 0 <= s < steps]
    timed, ahead = _measured(loaded, sources, plan, replay, device, console) if measured else (None, None)
    return Plan(base, sources, replay, why, plan, float(lr), device, timed, ahead, notes, schedule)


def _measured(
    loaded: Loaded, sources: list[SourcePlan], size: Lengths, replay: float, device: str, console: Console
) -> tuple[Measured, Forecast]:
    """Times a few steps of the real base on the sampled text, and what follows for the run."""
    from rewarm.evaluate.probe import PROBE_BYTES  # late: torch takes seconds to load

    recipe = loaded.recipe
    new = _new_tokens(recipe)
    with tempfile.TemporaryDirectory(prefix="rewarm-plan-") as scratch:
        begin = time.perf_counter()
        if recipe.model.gguf is not None:
            from rewarm.model.gguf_base import convert_gguf

            folder = Path(scratch) / "base"
            with console.bar("reading the base", None, "tensors"):
                convert_gguf(loaded.root / recipe.model.gguf, folder, Silent())
        else:
            folder, _ = checked_base(recipe, loaded.root)
        convert = time.perf_counter() - begin
        console.say("measuring a few training steps ...")
        samples = [SampleText(s.name, s.role, list(s.sample)) for s in sources]
        timed = measure(recipe, folder, new, samples, size, replay)
    minutes = recipe.train.max_minutes
    steps = size.steps if size.steps is not None else round(60 * (minutes or 0) / timed.step)
    ahead = forecast(
        timed, steps, _text_sizes(loaded, sources, device), convert=convert, extend=recipe.vocab.extend is not False, shorter=1.0,
        mixback=recipe.keep.mixback == "auto", max_minutes=minutes, probe=PROBE_BYTES[device],
        probes=0 if recipe.train.probe_every == "off" else 2,
    )  # fmt: skip
    return timed, ahead


def _new_tokens(recipe: Recipe) -> int:
    """Vocabulary rows that the run will add, or may add."""
    if recipe.vocab.extend is False:
        return 0
    return recipe.vocab.size if recipe.vocab.size != "auto" else min(GUESSED_TOKENS, recipe.vocab.max_size)


def _text_sizes(loaded: Loaded, sources: list[SourcePlan], device: str) -> list[TextSize]:
    from rewarm.evaluate.protocol import MAX_MB

    cfg, evaluate = loaded.recipe.corpus.heldout, loaded.recipe.evaluate
    most = 1e6 * (MAX_MB[device] if evaluate.max_mb == "auto" else evaluate.max_mb)
    sizes = []
    for s in sources:
        held = min(max(cfg.share * s.bytes, cfg.min_mb * 1e6), cfg.max_mb * 1e6, s.bytes / 10)
        half = round(min(held / 2, most))
        sizes.append(TextSize(s.role, s.bytes, half, half))
    for text in evaluate.texts:
        size = (loaded.root / Path(text.path).expanduser()).stat().st_size
        sizes.append(TextSize("new" if text.role == "new" else "replay", 0, 0, round(min(size, most))))
    return sizes


def _base(loaded: Loaded) -> dict[str, Any]:
    """Name, parameters, layers, width and positions of the base, and its encoder; weights are not read."""
    from tokenizers import Tokenizer

    model = loaded.recipe.model
    if model.gguf is not None:
        from rewarm.model.gguf_base import read_header
        from rewarm.model.gguf_tokenizer import build_tokenizer

        path = loaded.root / model.gguf
        metadata, _ = read_header(path)
        kind = metadata["general.architecture"]
        config = {"model_type": kind, "max_position_embeddings": metadata.get(f"{kind}.context_length")}
        layers, width = metadata[f"{kind}.block_count"], metadata[f"{kind}.embedding_length"]
        tokenizer = build_tokenizer(metadata, str(path)).tokenizer
        name, parameters = path.stem, _gguf_parameters(path)
    else:
        folder, config = checked_base(loaded.recipe, loaded.root)
        text = config.get("text_config") or config
        layers = text.get("num_hidden_layers") or text.get("n_layer") or 1
        width = text.get("hidden_size") or text.get("n_embd") or 1
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        name, parameters = folder.name, _parameters(folder)
    positions = positions_of(config)
    return {
        "name": name, "parameters": parameters, "layers": int(layers), "width": int(width), "positions": positions,
        "encode": lambda texts: sum(len(e.ids) + 1 for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)),
    }  # fmt: skip


def _gguf_parameters(path: Path) -> int:
    from gguf import GGUFReader

    return sum(int(t.n_elements) for t in GGUFReader(path).tensors)


def _parameters(folder: Path) -> int:
    """Elements of all tensors, from the headers of the safetensors files."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        for key, entry in header.items():
            if key != "__metadata__":
                elements = 1
                for side in entry["shape"]:
                    elements *= side
                total += elements
    return total


def _look(source: Any, files: list[Any], encode: Any) -> SourcePlan:
    """Reads a source's first megabytes and scales up by file size."""
    texts: list[str] = []
    taken = size = 0
    whole = sum(f.path.stat().st_size for f in files)
    exact = True
    for file in files:
        if taken >= SAMPLE_BYTES:
            exact = False
            break
        before, tally = taken, Tally()
        for row in read_file(file, source, tally):
            if taken >= SAMPLE_BYTES:
                exact = False
                break
            texts.append(row.text)
            taken += len(row.text.encode())
        # how far a file was read is known by its bytes on disk where it is packed, else by the text that came of it: blocks read ahead
        packed = file.format == "parquet" or file.path.suffix.lower() in PACKED
        size += file.bytes if exact else min(file.bytes, tally.place if packed else taken - before)
    wrong = told(look(texts if exact or len(files) == 1 else _beginnings(source, files), source.languages), source.languages)
    tokens = encode(texts) if texts else 0
    scale = 1.0 if exact else max(1.0, whole / max(1, size))
    documents, size_bytes, tokens = round(len(texts) * scale), round(taken * scale), round(tokens * scale)
    return SourcePlan(
        source.name, source.role, list(source.languages), len(files), documents, size_bytes, tokens, exact, tuple(texts), wrong
    )  # fmt: skip


def _beginnings(source: Any, files: list[Any]) -> list[str]:
    """The beginnings of files spread over the source, as long together as the sample: a language may change from file to file."""
    picked = [files[i * len(files) // SAMPLE_FILES] for i in range(SAMPLE_FILES)] if len(files) > SAMPLE_FILES else files
    texts: list[str] = []
    for file in picked:
        left = SAMPLE_BYTES // len(picked)
        for row in read_file(file, source, Tally()):
            texts.append(row.text[:left])
            left -= len(row.text)
            if left <= 0:
                break
    return texts


def _show_measured(plan: Plan, console: Console) -> None:
    """Time and memory, or that they were not asked for."""
    timed, ahead = plan.measured, plan.forecast
    if timed is None or ahead is None:
        console.say(f"Device: {plan.device}; time and memory were not measured (--quick)")
        return
    where = "GPU memory" if plan.device == "cuda" else "memory"
    console.say(f"Device: {plan.device}, {timed.precision}; {where} about {timed.memory_gib:.1f} GiB, {timed.micro_rows:,} rows at once")
    speed = plan.lengths.step_tokens / timed.step
    console.say(f"Time: about {duration(ahead.total)} in all; {timed.step:.3g} s a step, {quantity(speed, 'tokens')}/s (measured)")
    console.say("  " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in ahead.stages.items()))


def show_plan(plan: Plan, console: Console) -> None:
    """Prints the plan for people."""
    base = plan.base
    console.say(f"Base: {base['name']}, {quantity(base['parameters'], 'parameters')}, {base['layers']} layers of width {base['width']}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, justify in (
        ("text", "left"),
        ("role", "left"),
        ("files", "right"),
        ("documents", "right"),
        ("MB", "right"),
        ("base tokens", "right"),
        ("", "left"),
    ):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for s in plan.sources:
        about = "" if s.exact else "estimated from its first 2 MB"
        table.add_row(s.name, s.role, f"{s.files:,}", f"{s.documents:,}", f"{s.bytes / 1e6:,.2f}", f"{s.tokens:,}", about)
    console.out.print(table)
    size = plan.lengths
    console.say(f"Replay: {100 * plan.replay:.0f} % of the tokens ({plan.replay_why})")
    steps = (
        "as many as fit in train.max_minutes, measured at the start"
        if size.steps is None
        else f"{size.steps:,}, {size.planned_tokens:,} tokens in all"
    )
    console.say(f"Steps: {size.step_tokens:,} tokens ({size.batch_rows:,} rows) each; {steps}")
    if size.planned_tokens:
        for role, share in (("new", 1 - plan.replay), ("replay", plan.replay)):
            there = sum(s.tokens for s in plan.sources if s.role == role)
            if there and share:
                console.say(f"  {role} text is read {size.planned_tokens * share / there:.2f} times")
    if plan.schedule:
        console.say("Rate: " + ", ".join(f"step {s:,} {rate:.2g}" for s, rate in plan.schedule))
    else:
        console.say(f"Rate: peak {plan.lr:g}")
    _show_measured(plan, console)
    for note in plan.notes:
        console.warn(note)
    console.say("Nothing was trained or written.")
