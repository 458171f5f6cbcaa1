"""A longer context: the same weights under a configuration whose rotary positions reach further.

Training then teaches the model the new distances; without training, positions beyond the old maximum are noise to it. What is written is
the base's folder with a few values of config.json changed, so whatever loads the model turns by the same angles, and no stage after this
one needs to know.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM

from rewarm.atomic import read_json, write_json
from rewarm.errors import UserError
from rewarm.model.load import read_config
from rewarm.model.recipe import Rope

FULL = "full_attention"
"""Where a family has angles by kind of layer (Gemma 3), those of windows stay: a window never sees further than it did."""


def longer_config(config: dict[str, Any], known: dict[str, Any] | None, rope: Rope, where: str) -> dict[str, Any]:
    """config.json with `rope.context` positions. UserError where the model has no rotary positions, scaled ones, or enough of them.

    known: the rotary parameters as transformers reads them out of this file, defaults and older spellings resolved. What is written is in
    the file's own spelling: `rope_theta` and `rope_scaling` where it has the first, else `rope_parameters`.
    """
    old = config.get("max_position_embeddings")
    split = known is not None and FULL in known
    before: dict[str, Any] = dict((known or {}).get(FULL) or {}) if split else dict(known or {})
    if not isinstance(old, int) or before.get("rope_theta") is None:
        raise UserError("this model has no rotary positions that could be stretched", where=where, fix="remove model.rope from the recipe")
    if (kind := before.get("rope_type", "default")) != "default":
        raise UserError(
            f"this model's positions are scaled already ({kind})", where=where, fix="remove model.rope, or use the base it was made of"
        )
    if rope.context <= old:
        raise UserError(
            f"model.rope.context is {rope.context:,}, and the model reads {old:,} tokens as it is", where=where, fix="remove model.rope"
        )
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    changed = _angles(rope, old, float(before["rope_theta"]), int(head * before.get("partial_rotary_factor", 1.0)))
    out = {**config, "max_position_embeddings": rope.context}
    if rope.type == "yarn":
        out["head_dim"] = head  # transformers multiplies by it for yarn, also where a family leaves it unset (Mixtral)
    if "rope_theta" not in config:
        after = {**before, **changed}
        out["rope_parameters"] = {**(known or {}), FULL: after} if split else after
        return out
    out["rope_theta"] = changed.pop("rope_theta")
    if changed["rope_type"] != "default":
        out["rope_scaling"] = changed
    return out


def _angles(rope: Rope, old: int, theta: float, channels: int) -> dict[str, Any]:
    """yarn: arXiv 2309.00071, slow channels stretched and fast ones kept; linear: arXiv 2306.15595, every position divided; theta: the base
    raised so that the slowest channel turns as far over the new length as over the old one."""
    factor = rope.context / old
    if rope.type == "theta":
        return {"rope_type": "default", "rope_theta": theta * factor ** (channels / (channels - 2))}
    scaled: dict[str, Any] = {"rope_type": rope.type, "rope_theta": theta, "factor": factor}
    return {**scaled, "original_max_position_embeddings": old} if rope.type == "yarn" else scaled


def check_rope(model_dir: Path, rope: Rope) -> dict[str, Any]:
    """What config.json of `model_dir` becomes. UserError where that cannot be, and so before anything else is done.

    A model without weights is built of it: families differ in the kinds of scaling they take (Phi-3 has one of its own).
    """
    where = str(model_dir / "config.json")
    known = read_config(model_dir)
    after = longer_config(read_json(model_dir / "config.json"), getattr(known, "rope_parameters", None), rope, where)
    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(type(known).from_dict(after))
    except (StrictDataclassError, ValueError, KeyError, TypeError) as error:
        told = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"this family takes no positions of type {rope.type}: {told}", where=where, fix="try model.rope.type: theta"
        ) from error
    return after


def write_longer(model_dir: Path, rope: Rope, out: Path) -> dict[str, Any]:
    """Writes `out`, the folder `model_dir` with a longer context; weights are linked where the disk can. Returns what changed.

    A tokenizer's length limit below the new context is raised to it.
    """
    after = check_rope(model_dir, rope)
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(model_dir.iterdir()):
        target = out / path.name
        target.unlink(missing_ok=True)
        if path.suffix == ".safetensors":
            _link(path.resolve(), target)
        elif path.is_file():
            shutil.copyfile(path, target)
    limits = out / "tokenizer_config.json"
    if limits.is_file() and (settings := read_json(limits)).get("model_max_length", rope.context) < rope.context:
        write_json(limits, {**settings, "model_max_length": rope.context})
    write_json(out / "config.json", after)
    before = read_json(model_dir / "config.json")["max_position_embeddings"]
    return {"context": {"before": before, "after": rope.context}, "rope": rope.type}


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(path, target)
