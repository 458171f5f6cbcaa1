"""`rewarm plan`: what a run will do, before anything is trained or written: text, tokens, steps, mixture, schedule, memory.

Tokens are counted exactly where a source is small, else from its first megabytes; what a vocabulary extension saves
of them is found by choosing new tokens on the sampled text. Time and memory come from a few real steps (`rewarm.measuring`).
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewarm.console import Console
from rewarm.corpus.plan import source_files
from rewarm.forecast import Forecast, TextSize, forecast
from rewarm.looking import SourcePlan, base_facts, look_at
from rewarm.measuring import Measured, SampleText, measure
from rewarm.planning import Lengths, check_guard, check_recipe, lengths, replay_share
from rewarm.progress import Silent
from rewarm.recipe import Loaded, Recipe
from rewarm.rooms import checked_base, device_of, length_is_set
from rewarm.tokens.enough import check_enough
from rewarm.tokens.positions import check_row_tokens
from rewarm.train.schedule import auto_lr, lr_factor, phases

CURVE_POINTS = 60
ANY_STEPS = 1_000
"""What a schedule is drawn with where the number of steps is not known: phases are shares of a run, so the shape is the same."""


@dataclass(frozen=True, slots=True)
class Longer:
    """The vocabulary to come: new tokens, and the tokens of new text with them over those with the base's tokenizer."""

    new: int
    shorter: float


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
    longer: Longer
    measured: Measured | None
    forecast: Forecast | None
    notes: list[str] = field(default_factory=list)
    schedule: list[tuple[str, int, float]] = field(default_factory=list)
    """(phase, first step, rate there), then (`last`, last step, rate there); empty where the number of steps is not known."""
    curve: list[float] = field(default_factory=list)
    """The rate at equal distances from the first step to the last."""


def plan_recipe(loaded: Loaded, console: Console, *, measured: bool = True) -> Plan:
    """Looks at base and text and derives the run; raises UserError for whatever would stop it. measured: also chooses new tokens on the
    sampled text, for the length, and takes a few training steps, for time and memory."""
    recipe, root = loaded.recipe, loaded.root
    check_recipe(recipe)
    base = base_facts(loaded)
    encode = base.pop("encode")
    sources = []
    for i, source in enumerate(recipe.corpus.sources):
        with console.bar(source.name, None, "documents"):
            sources.append(look_at(source, source_files(source, root, f"corpus.sources[{i}]"), encode))
    new = [s for s in sources if s.role == "new"]
    old = [s for s in sources if s.role == "replay" and s.documents]
    replay, why = replay_share(recipe.mixture, [set(s.languages) for s in new], [set(s.languages) for s in old])
    device = device_of(recipe)
    new_tokens = sum(s.tokens for s in new)
    row = recipe.tokens.row_tokens
    size = lengths(recipe.train, recipe.tokens, new_tokens, replay, device)
    table = [{"name": s.name, "role": s.role, "tokens": s.tokens, "rows": -(-s.tokens // row)} for s in sources]
    repeats = check_enough(table, size.batch_rows, row, size.steps or 1, replay=replay, length_is_set=length_is_set(recipe))
    check_guard(recipe)
    lr = recipe.train.lr if recipe.train.lr != "auto" else auto_lr(base["parameters"])
    positions, rope = base["positions"], recipe.model.rope
    if rope is not None and not positions.learned:
        positions = replace(positions, limit=rope.context)
    notes = [x for x in (repeats, check_row_tokens(positions, row)) if x]
    notes += [f"source `{s.name}`: {s.wrong}{'' if s.exact else ' (as far as it was looked at)'}" for s in sources if s.wrong]
    if not old:
        notes.append("without old text nothing will show what was forgotten")
    longer = Longer(0, 1.0)
    timed: Measured | None = None
    ahead: Forecast | None = None
    if measured:
        with tempfile.TemporaryDirectory(prefix="rewarm-plan-") as scratch:
            folder, convert = _folder(loaded, Path(scratch), console)
            if recipe.vocab.extend is not False:
                console.say("choosing new tokens on the sampled text ...")
                longer = _longer(recipe, folder, sources, Path(scratch))
                size = lengths(recipe.train, recipe.tokens, max(1, round(new_tokens * longer.shorter)), replay, device)
            console.say("measuring a few training steps ...")
            samples = [SampleText(s.name, s.role, list(s.sample)) for s in sources]
            timed = measure(recipe, folder, longer.new, samples, size, replay)
        ahead = _ahead(loaded, sources, size, timed, longer, convert, device)
    elif recipe.vocab.extend is not False:
        shorter = "" if length_is_set(recipe) else ", so the run will be shorter than this"
        notes.append(f"tokens are the base's; the extended tokenizer will need fewer for the new text{shorter}")
    steps = size.steps or 0
    marks = [(name, first) for name, first, _ in phases(recipe.train, steps)] + [("last", steps - 1)] if steps else []
    schedule = [(name, step, lr * lr_factor(step, recipe.train, steps)) for name, step in marks]
    drawn = steps or ANY_STEPS
    curve = [lr * lr_factor(x * (drawn - 1) // (CURVE_POINTS - 1), recipe.train, drawn) for x in range(CURVE_POINTS)]
    return Plan(base, sources, replay, why, size, float(lr), device, longer, timed, ahead, notes, schedule, curve)


def _folder(loaded: Loaded, scratch: Path, console: Console) -> tuple[Path, float]:
    """(the base as a Hugging Face folder, the seconds that making it took). UserError if it cannot have the context of `model.rope`."""
    recipe, folder = loaded.recipe, scratch / "base"
    begin = time.perf_counter()
    if recipe.model.gguf is not None:
        from rewarm.model.gguf_base import convert_gguf

        with console.bar("reading the base", None, "tensors"):
            convert_gguf(loaded.root / recipe.model.gguf, folder, Silent())
    else:
        folder, _ = checked_base(recipe, loaded.root)
    seconds = time.perf_counter() - begin
    if recipe.model.rope is not None:
        from rewarm.model.rope import check_rope

        check_rope(folder, recipe.model.rope)
    return folder, seconds


def _longer(recipe: Recipe, folder: Path, sources: list[SourcePlan], scratch: Path) -> Longer:
    """How many tokens the run would add, and how much shorter the new text gets by them: chosen on the sampled text alone, so the gain on
    all of it is a little larger. Whether the guard's limit holds is for the run to say, which has all of the old text."""
    from rewarm.vocab.base import open_base
    from rewarm.vocab.stage import survey

    targets: dict[str, list[Path]] = {}
    protect: list[Path] = []
    for i, source in enumerate(sources):
        if source.sample:
            file = scratch / f"{i}.jsonl"
            file.write_text("".join(json.dumps({"text": text}) + "\n" for text in source.sample), encoding="utf-8")
            (protect if source.role == "replay" else targets.setdefault("+".join(source.languages) or source.name, [])).append(file)
    cfg = recipe.vocab.model_copy(update={"max_changed_lines": 1.0})
    planned = recipe.train.tokens if isinstance(recipe.train.tokens, int) else None
    _, _, choice = survey(cfg, open_base(folder), targets, protect, planned, scratch / "counts", Silent())
    if cfg.extend == "auto" and not choice.advice.extend:
        return Longer(0, 1.0)
    curve = choice.curve.bytes_per_token
    after = dict(zip(choice.curve.languages, curve[min(choice.learnt, choice.curve.sizes)] / curve[0]))
    tokens = {s.name: s.tokens for s in sources if s.role == "new"}
    less = sum(n / float(after["+".join(s.languages) or s.name]) for s in sources if (n := tokens.get(s.name)) and s.sample)
    return Longer(cfg.size if cfg.size != "auto" else choice.learnt, less / max(1, sum(tokens.values())))


def _ahead(
    loaded: Loaded, sources: list[SourcePlan], size: Lengths, timed: Measured, longer: Longer, convert: float, device: str
) -> Forecast:
    from rewarm.evaluate.probe import PROBE_BYTES  # late: torch takes seconds to load

    recipe = loaded.recipe
    minutes = recipe.train.max_minutes
    steps = size.steps if size.steps is not None else round(60 * (minutes or 0) / timed.step)
    return forecast(
        timed, steps, _text_sizes(loaded, sources, device), convert=convert, extend=longer.new > 0, shorter=longer.shorter,
        mixback=recipe.keep.mixback == "auto", max_minutes=minutes, probe=PROBE_BYTES[device],
        probes=0 if recipe.train.probe_every == "off" else 2,
    )  # fmt: skip


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
