"""Reads an exported folder as a stranger would: a script that imports nothing of rewarm. Run by `check.py` in a process of its own.

`probe.py tokenizers|transformers FOLDER` reads {"lines": [..], "prompt": "..", "tokens": n} from standard input and writes JSON: ids and
decoded text of each line, and, for transformers, what was missing in the files and what the model generates.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def with_tokenizers(folder: str, lines: list[str]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    ids = [tokenizer.encode(line).ids for line in lines]
    plain = [tokenizer.decode(tokenizer.encode(line, add_special_tokens=False).ids, skip_special_tokens=False) for line in lines]
    return {"ids": ids, "decoded": plain, "alone": not {"transformers", "torch", "rewarm"} & set(sys.modules)}


def with_transformers(folder: str, lines: list[str], prompt: str, tokens: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model, info = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32, output_loading_info=True)
    ids = [tokenizer(line)["input_ids"] for line in lines]
    plain = [tokenizer.decode(tokenizer(line, add_special_tokens=False)["input_ids"]) for line in lines]
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        finite = bool(torch.isfinite(model(**inputs).logits).all())
        written = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    ends = model.generation_config.eos_token_id
    return {
        "ids": ids,
        "decoded": plain,
        "alone": "rewarm" not in sys.modules,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "rows": model.get_input_embeddings().weight.shape[0],
        "finite": finite,
        "continuation": tokenizer.decode(written, skip_special_tokens=True),
        "tokens_written": len(written),
        "ends": ends if isinstance(ends, list) else [] if ends is None else [ends],
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    if sys.argv[1] == "tokenizers":
        answer = with_tokenizers(sys.argv[2], asked["lines"])
    else:
        answer = with_transformers(sys.argv[2], asked["lines"], asked["prompt"], asked["tokens"])
    json.dump(answer, sys.stdout)
