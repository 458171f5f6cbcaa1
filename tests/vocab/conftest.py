"""Small bases of each type that byte-level BPE comes in, made with the tokenizers library from invented text, and models to go with them.

English words make the old text, Vietnamese-like and Korean-like syllables the new one; everything is generated from a seed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from .sp_bases import as_gemma, as_mistral, gemma_model, llama2_model, spec_of

_ENGLISH = "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you were all"
ENGLISH = [*_ENGLISH.split(" "), "her"]
HEADS = [*"bcdđghklmnpqrstvx", "ch", "gh", "kh", "ng", "nh", "ph", "th", "tr"]
TAILS = [*"aáàảãạ", "ăn", "ấn", "ậy", "êu", "ọc", "ính", "ường", "ước", "iệt", "ông", "oà", "uỷ", "ĩa", "ếp", "ộng", "ệnh", "ờng"]
LLAMA_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def english(lines: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(lines):
        words = [ENGLISH[i] for i in (rng.integers(0, len(ENGLISH), 12) * rng.random(12)).astype(int)]
        out.append(" ".join(words).capitalize() + f", {rng.integers(0, 2000)} (no. {rng.integers(0, 99)}).")
    return out


def vietnamese(lines: int, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    syllables = [h + t for h in HEADS for t in TAILS]
    out = []
    for _ in range(lines):
        words = [syllables[int(i)] for i in (rng.integers(0, len(syllables), 12) * rng.random(12) ** 2)]
        out.append(f"Điều {rng.integers(1, 500)}. " + " ".join(words).capitalize() + "; the law, 한국어를 가르쳤습니다.")
    return out


def write_text(path: Path, lines: list[str]) -> Path:
    """A .jsonl file with twenty lines a document."""
    documents = ["\n".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
    path.write_text("".join(json.dumps({"text": d}, ensure_ascii=False) + "\n" for d in documents), encoding="utf-8")
    return path


def _trained(
    split: Any, normalizer: Any = None, alphabet: list[str] | None = None, special: list[str] | None = None, size: int = 420
) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    letters = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=letters, special_tokens=special or [], show_progress=False)
    tokenizer.train_from_iterator(english(400), trainer)
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    return spec


def gpt2_spec() -> dict[str, Any]:
    """GPT-2 type: one control token at the end of the vocabulary, merges as strings."""
    spec = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    end = len(spec["model"]["vocab"])
    spec["model"]["vocab"]["<|endoftext|>"] = end
    spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    spec["added_tokens"] = [_added(end, "<|endoftext|>")]
    return spec


def llama3_spec() -> dict[str, Any]:
    """Llama-3 type: `ignore_merges`, a whole word no merge can build, and added tokens above the vocabulary, not listed in it."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spec = _trained(split)
    spec["model"]["ignore_merges"] = True
    spec["model"]["vocab"]["Ġquyá"] = len(spec["model"]["vocab"])
    start = len(spec["model"]["vocab"])
    spec["added_tokens"] = [_added(start + i, text) for i, text in enumerate(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])]
    return spec


def qwen_spec() -> dict[str, Any]:
    """Qwen type: NFC normalizer; its model has spare rows."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spec = _trained(split, normalizers.NFC())
    start = len(spec["model"]["vocab"])
    spec["added_tokens"] = [_added(start + i, text) for i, text in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])]
    return spec


def smollm_spec() -> dict[str, Any]:
    """SmolLM2 type: control tokens in front, digits one by one, and bytes that have no token (here 0xEA, which begins Korean letters)."""
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    lacking = {"ª", "ê", "À"}
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in lacking]
    spec = _trained(split, alphabet=alphabet, special=special)
    spec["model"]["unk_token"] = "<|endoftext|>"
    return spec


def _added(i: int, text: str) -> dict[str, Any]:
    return {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def llama2_spec() -> dict[str, Any]:
    """Llama-2 type: a blank is put in front by the normalizer; a `.model` lies beside it."""
    return _spec_of(llama2_model(english(400)))


def gemma_spec() -> dict[str, Any]:
    """Gemma type: nothing is put in front, added tokens below and above the pieces; a `.model` lies beside it."""
    return as_gemma(_spec_of(gemma_model(english(400))))


def mistral_spec() -> dict[str, Any]:
    """Mistral type: Metaspace, merges as strings, and no `.model`."""
    return as_mistral(_spec_of(llama2_model(english(400))))


def _spec_of(model: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return spec_of(model, Path(folder))


SPECS: dict[str, Callable[[], dict[str, Any]]] = {
    "gpt2": gpt2_spec,
    "llama3": llama3_spec,
    "qwen": qwen_spec,
    "smollm": smollm_spec,
    "llama2": llama2_spec,
    "gemma": gemma_spec,
    "mistral": mistral_spec,
}
MODEL_FILES: dict[str, Callable[[list[str]], bytes]] = {"llama2": llama2_model, "gemma": gemma_model}


def write_base(
    folder: Path, kind: str, rows: int | None = None, tied: bool = True, old_files: bool = False, dtype: str = "float32"
) -> Path:
    """A model folder: tokenizer of this kind and a Llama of 2 layers and width 32 with random weights."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    spec = SPECS[kind]()
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=2), encoding="utf-8")
    ids = [*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])]
    end = spec["added_tokens"][0]["content"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "chat_template": "{{ messages[0]['content'] }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [spec["added_tokens"][0]["id"]], "temperature": 0.5}))
    if kind in MODEL_FILES:
        (folder / "tokenizer.model").write_bytes(MODEL_FILES[kind](english(400)))
    if old_files:
        (folder / "vocab.json").write_text(json.dumps(spec["model"]["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
        (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    config = LlamaConfig(
        vocab_size=rows or max(ids) + 1, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    (folder / "config.json").write_text(config.to_json_string())
    torch.manual_seed(3)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    tensors = {k: v.contiguous() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`target` (0.6 MB, Vietnamese-like with some English and Korean) and `protect` (1.2 MB English) as files."""
    folder = tmp_path_factory.mktemp("texts")
    return {
        "target": write_text(folder / "target.jsonl", vietnamese(4_000)),
        "protect": write_text(folder / "protect.jsonl", english(18_000, seed=2)),
    }


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each kind; qwen's has spare rows."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: write_base(folder / kind, kind, rows=640 if kind == "qwen" else None, tied=kind != "llama3") for kind in SPECS}


@pytest.fixture
def quick_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate over fewer strings and every 40th code point, for tests that look at something else."""
    shorten_gate(monkeypatch)


def shorten_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewarm.vocab import gate

    some = gate.all_characters()[::40]
    monkeypatch.setattr(gate, "FUZZED", 300)
    monkeypatch.setattr(gate, "all_characters", lambda: some)


@pytest.fixture(scope="session")
def extended(bases: dict[str, Path], texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each base extended by 150 tokens: the stage's folder."""
    from rewarm.vocab.recipe import VocabRecipe
    from rewarm.vocab.stage import extend

    folder = tmp_path_factory.mktemp("extended")
    with pytest.MonkeyPatch.context() as patch:
        shorten_gate(patch)
        for kind, base in bases.items():
            extend(base, {"vi": [texts["target"]]}, [texts["protect"]], folder / kind, VocabRecipe(size=150))
    return {kind: folder / kind for kind in bases}
