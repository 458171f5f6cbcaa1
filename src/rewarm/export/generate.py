"""Text from an exported folder, with transformers alone: `python -m rewarm.export.generate FOLDER "Điều 1."`.

The same as the three lines in the model card; it is here so that a run can end with one command that works.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def generate(folder: Path, prompt: str, tokens: int = 60) -> str:
    """The prompt and up to `tokens` tokens after it, the likeliest at each step, no run of eight twice."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32).eval()
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False, no_repeat_ngram_size=8)[0]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rewarm.export.generate", description="Continue a text with an exported model.")
    parser.add_argument("folder", type=Path, help="an exported model's folder")
    parser.add_argument("prompt", help="how the text begins")
    parser.add_argument("--tokens", type=int, default=60, help="how many tokens to write at most (default 60)")
    chosen = parser.parse_args(arguments)
    if not (chosen.folder / "config.json").is_file():
        print(f"rewarm: {chosen.folder}\n  no model here: config.json is missing", file=sys.stderr)
        return 2
    print(generate(chosen.folder, chosen.prompt, chosen.tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
