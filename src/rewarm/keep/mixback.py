"""The last move of a run, a small step back towards the start: theta(alpha) = start + alpha (end - start).

On the straight line between the weights before and after training, old knowledge comes back faster than new knowledge goes, so alpha trims
forgetting after the fact (the idea is WiSE-FT's, arXiv 2109.01903). It is chosen on one half of the held-out text; the report reads the
other half, which had no say. Mixed in fp32, cast to bf16, and scored as it is handed over.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewarm import signals
from rewarm.atomic import disk_errors, read_json, sweep, sync_files, sync_folder, temporary, write_json
from rewarm.errors import UserError
from rewarm.keep.recipe import KeepRecipe
from rewarm.progress import Reporter

CANDIDATES = (1.0, 0.9, 0.8)
"""Largest first: the first that passes is taken, so most runs score one model."""

Scores = Mapping[str, Mapping[str, Any]]
"""By text: `role` (`old` or `new`), `bits_per_byte` of the model that was scored, and `base`, that of the base on the same documents."""


def mix(start: Any, end: Any, alpha: float) -> Any:
    """start + alpha (end - start) of two fp32 arrays or tensors; at 0 the start and at 1 the end bit for bit, which the formula is not."""
    if alpha == 0.0:
        return start
    if alpha == 1.0:
        return end
    return start + alpha * (end - start)


@dataclass(frozen=True)
class Scored:
    """One alpha: F = bits per byte lost on each old text against the base, and bits per byte of each new text."""

    alpha: float
    forgotten: dict[str, float]
    new: dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The alpha to take and why. passed: every old text is within its budget there, None if there was nothing to ask."""

    alpha: float
    passed: bool | None
    reason: str
    scored: tuple[Scored, ...]


def choose_alpha(candidates: Sequence[float], score: Callable[[float], Scored], budgets: Mapping[str, float] | None = None) -> Choice:
    """The largest candidate at which no old text lost more than its budget in bits per byte, 0 where it has none.

    Candidates are scored from the largest down, and no further than the first that passes. If none does, the smallest is taken: it lost
    least. Without any old text it is the largest, as nothing can tell what a smaller one would save.
    """
    budgets = budgets or {}
    scored: list[Scored] = []
    for alpha in sorted(candidates, reverse=True):
        scored.append(score(alpha))
        forgotten = scored[-1].forgotten
        if not forgotten:
            return Choice(alpha, None, "no old text is held out, so forgetting cannot be measured", tuple(scored))
        over = {text: lost for text, lost in forgotten.items() if not lost <= budgets.get(text, 0.0)}
        if not over:
            return Choice(alpha, True, f"no old text is above {'its budget' if budgets else 'the base'}", tuple(scored))
    worst = max(over, key=lambda text: over[text] - budgets.get(text, 0.0))
    told = f"at the smallest {worst} lost {over[worst]:+.4f} bits per byte, allowed {budgets.get(worst, 0.0):g}"
    return Choice(scored[-1].alpha, False, f"no candidate keeps every old text; {told}", tuple(scored))


def mixback_stage(
    cfg: KeepRecipe,
    start_dir: Path,
    end_dir: Path,
    measure: Callable[[Path], Scores] | None,
    out: Path,
    reporter: Reporter,
    *,
    budgets: Mapping[str, float] | None = None,
    candidates: Sequence[float] = CANDIDATES,
) -> dict[str, Any]:
    """Writes `out/model` (a Hugging Face folder, bf16) and `out/mixback.json`, and returns the latter's content.

    start_dir, end_dir: folders of the model before and after training. measure(folder): scores on the control half of the held-out texts;
    None if nothing is held out. budgets: bits per byte that an old text may lose, by name.
    """
    if (out / "mixback.json").is_file() and (out / "model" / "config.json").is_file():
        return read_json(out / "mixback.json")
    out.mkdir(parents=True, exist_ok=True)
    sweep(out)

    def score(alpha: float) -> Scored:
        signals.check_stop()
        write_mixed(start_dir, end_dir, alpha, out / "model")
        found = measure(out / "model") if measure else {}
        forgotten = {text: s["bits_per_byte"] - s["base"] for text, s in found.items() if s["role"] == "old"}
        new = {text: s["bits_per_byte"] for text, s in found.items() if s["role"] == "new"}
        lost = ", ".join(f"{text} {value:+.4f}" for text, value in forgotten.items())
        learned = ", ".join(f"{text} {value:.4f}" for text, value in new.items())
        reporter.say(f"alpha {alpha:g}: lost on old text {lost or '-'}; new text {learned or '-'} (bits per byte, control half)")
        return Scored(alpha, forgotten, new)

    if cfg.mixback == "auto" and measure is not None:
        choice = choose_alpha(candidates, score, budgets)
    else:
        alpha, reason = _fixed(cfg)
        write_mixed(start_dir, end_dir, alpha, out / "model")
        choice = Choice(alpha, None, reason, ())
    (reporter.warn if choice.passed is False else reporter.say)(f"mixed back with alpha {choice.alpha:g}: {choice.reason}")
    result = asdict(choice)
    write_json(out / "mixback.json", result)
    return json.loads(json.dumps(result))


def _fixed(cfg: KeepRecipe) -> tuple[float, str]:
    if cfg.mixback == "off":
        return 1.0, "keep.mixback is off"
    if cfg.mixback == "auto":
        return 1.0, "nothing is held out, so forgetting cannot be measured"
    return cfg.mixback, "set in the recipe"


def write_mixed(start_dir: Path, end_dir: Path, alpha: float, out: Path) -> None:
    """The mixed model as a Hugging Face folder in bf16, all of it or nothing; replaces `out`. Tensor by tensor: memory of one file of
    `end_dir`.

    Everything but the weights is `end_dir`'s. UserError, with the tensor's name, if the two models are not of one shape.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    start = {name: path for path in sorted(start_dir.glob("*.safetensors")) for name in _names(path)}
    part = temporary(out)
    shutil.rmtree(part, ignore_errors=True)
    needed = sum(path.stat().st_size for path in end_dir.glob("*.safetensors")) // 2  # fp32 to bf16
    with disk_errors(out, needed), _removed_if_it_fails(part):
        part.mkdir(parents=True)
        total = 0
        for path in sorted(end_dir.iterdir()):
            if path.suffix != ".safetensors":
                if path.is_file():
                    shutil.copyfile(path, part / path.name)
                continue
            mixed = {}
            with safe_open(path, framework="pt") as end:
                for name in end.keys():  # noqa: SIM118 - not a dict
                    if name not in start:
                        raise UserError(f"tensor `{name}` is in {end_dir} only", where=str(start_dir), fix="mix two models of one family")
                    with safe_open(start[name], framework="pt") as before:
                        a, b = before.get_tensor(name), end.get_tensor(name)
                    if a.shape != b.shape:
                        raise UserError(
                            f"tensor `{name}` is {tuple(a.shape)} here and {tuple(b.shape)} in {end_dir}",
                            where=str(start_dir),
                            fix="mix two models with one vocabulary",
                        )
                    mixed[name] = mix(a.float(), b.float(), alpha).to(torch.bfloat16) if b.is_floating_point() else b
                    total += mixed[name].numel() * mixed[name].element_size()
            save_file(mixed, part / path.name, metadata={"format": "pt"})
        _adjust(part, total)
        sync_files(part)
        shutil.rmtree(out, ignore_errors=True)
        part.replace(out)
        sync_folder(out.parent)


@contextlib.contextmanager
def _removed_if_it_fails(part: Path) -> Iterator[None]:
    """Half a model would take the space that is missing."""
    try:
        yield
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _adjust(folder: Path, total_bytes: int) -> None:
    """The type in config.json and the size in the index of a model of several files."""
    config = read_json(folder / "config.json")
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = "bfloat16"
    write_json(folder / "config.json", config)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        table = read_json(index)
        table.setdefault("metadata", {})["total_size"] = total_bytes
        write_json(index, table)
