"""A tiny byte-level model folder and tiny clean files: everything a test of the tokens needs, made in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from rewarm.progress import Silent
from rewarm.tokens.recipe import TokensRecipe
from rewarm.tokens.stage import TokenSource, rows_stage, tokenize_stage

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_model(folder: Path, vocab: int = 320, config: dict | None = None, tokenizer_config: dict | None = None) -> Path:
    """config.json, tokenizer.json (byte-level BPE, a handful of merges) and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["tiếng Việt, con đường, the old road and the new road"] * 3, trainer)
    tokenizer.add_tokens([AddedToken("<code>", special=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "model_max_length": 16} | (tokenizer_config or {})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    facts = {"model_type": "llama", "vocab_size": vocab, "max_position_embeddings": 512, "rope_theta": 1e4} | (config or {})
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def write_docs(path: Path, texts: list[str]) -> Path:
    """A clean file as the corpus stage writes it, the columns that tokens read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = [f"{path.stem}-{i}" for i in range(len(texts))]
    pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}), path)
    return path


def texts_of(count: int, word: str) -> list[str]:
    """Documents of very different lengths, no two alike."""
    return [f"{word} {i}: " + "đường mới, old road " * ((i * 7919) % 23) + "." for i in range(count)]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[TokenSource]:
    """Two new sources, one of two files, and one old source."""
    folder = tmp_path_factory.mktemp("docs")
    return [
        TokenSource(
            "law",
            "new",
            (write_docs(folder / "law0.parquet", texts_of(60, "luật")), write_docs(folder / "law1.parquet", texts_of(45, "điều"))),
        ),
        TokenSource("wiki", "new", (write_docs(folder / "wiki.parquet", texts_of(40, "bài")),)),
        TokenSource("old", "replay", (write_docs(folder / "old.parquet", texts_of(50, "old")),)),
    ]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, sources: list[TokenSource]) -> tuple[Path, Path]:
    """(tokens, rows) of the three sources in rows of 64 tokens."""
    folder = tmp_path_factory.mktemp("stages")
    cfg = TokensRecipe(row_tokens=64)
    tokenize_stage(cfg, model_dir, sources, folder / "tokens", Silent())
    rows_stage(cfg, folder / "tokens", folder / "rows", Silent())
    return folder / "tokens", folder / "rows"


@pytest.fixture
def write() -> Callable[[Path, list[str]], Path]:
    """`write(path, texts)` makes a clean file."""
    return write_docs


@pytest.fixture
def make_model() -> Callable[..., Path]:
    """`make_model(folder, vocab=, config=, tokenizer_config=)` makes a model folder."""
    return write_model
