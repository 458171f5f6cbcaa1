"""The two stages of this room: clean documents to token shards, token shards to row tables.

One clean file is one task and one shard; a finished shard is recognised and not made again. Rows are indices only, so another row length
costs seconds, not a new tokenisation.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rewarm.atomic import sha256_file, write_atomic, write_json
from rewarm.errors import UserError
from rewarm.progress import Reporter
from rewarm.signals import check_stop
from rewarm.tokens.encode import encode
from rewarm.tokens.mixture import read_rows
from rewarm.tokens.pack import RowTable, pack
from rewarm.tokens.positions import Positions, check_row_tokens, positions_of
from rewarm.tokens.recipe import TokensRecipe
from rewarm.tokens.scramble import key_of
from rewarm.tokens.separators import Separators, separators
from rewarm.tokens.shards import Shard, SourceTokens, dtype_for, finished_shard, open_tokens, write_shard
from rewarm.tokens.surfaces import byte_lengths
from rewarm.vocab.encoder import Encoder, EncoderDiffers, open_encoder

FORMAT = 1
_BATCH_DOCUMENTS = 512
_SAMPLE_DOCUMENTS = 2_000
_SAMPLE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class TokenSource:
    """A source's clean files: parquet with columns `id` and `text`; each becomes a shard. role: `new` or `replay`."""

    name: str
    role: str
    files: tuple[Path, ...]


def tokenize_stage(cfg: TokensRecipe, model_dir: Path, sources: list[TokenSource], out: Path, reporter: Reporter) -> dict[str, Any]:
    """Writes shards, byte_lengths.npy and index.json into `out`; returns tokens, bytes, documents, sources, encoder, eos.

    model_dir: folder with tokenizer.json and config.json. Of `cfg` only `eos` changes what is written; rows longer than the model's
    positions are refused here already, before hours of work. Raises UserError if no source has a document.
    """
    config = _config(model_dir)
    positions = positions_of(config)
    _warn(reporter, check_row_tokens(positions, cfg.row_tokens))
    vocab, tokenizer_json = _id_space(config, model_dir), model_dir / "tokenizer.json"
    ends = separators(model_dir, cfg.eos)
    reporter.say(
        f"documents end with `{ends.eos_token}` ({ends.reason}), "
        + (f"begin with `{ends.bos_token}`" if ends.bos_token else "no begin token")
    )
    encoder = open_encoder(tokenizer_json, _sample(sources))
    for line in encoder.passed_over:
        reporter.warn(line)
    reporter.say(f"encoder: {encoder.name} {encoder.version}")
    lengths = byte_lengths(tokenizer_json, vocab)
    done: list[dict[str, Any]] = []
    with reporter.bar("tokenize", sum(_text_bytes(f) for s in sources for f in s.files) / 1e6, "MB") as bar:
        for source in sources:
            shards = []
            for number, file in enumerate(source.files):
                check_stop()
                try:
                    made_shard = _shard(out, source.name, number, file, encoder, ends, vocab, reporter)
                except EncoderDiffers as error:
                    assert encoder.reference is not None, "only a fast encoder is watched"
                    reporter.warn(f"{error}: {file.name} of {source.name} is encoded again by tokenizers, which does all that follows")
                    encoder = encoder.reference
                    made_shard = _shard(out, source.name, number, file, encoder, ends, vocab, reporter)
                shards.append(made_shard)
                bar.advance(_text_bytes(file) / 1e6, source.name)
            done.append({"name": source.name, "role": source.role, "shards": shards} | _sum(shards))
    if not sum(made["documents"] for made in done):
        raise UserError(
            "every source is empty: there is no document to tokenize",
            where="corpus.sources",
            fix="see the corpus report for what was dropped",
        )
    for made in done:
        if not made["documents"]:
            reporter.warn(f"source {made['name']} is empty: it takes no part in the mixture")
        else:
            reporter.say(_line(made))
    array = io.BytesIO()
    np.save(array, lengths, allow_pickle=False)
    write_atomic(out / "byte_lengths.npy", array.getvalue())
    index = {
        "format": FORMAT, "dtype": dtype_for(vocab), "vocab": vocab, "tokenizer_sha256": sha256_file(tokenizer_json),
        "eos": ends.eos, "eos_token": ends.eos_token, "eos_reason": ends.reason, "bos": ends.bos, "bos_token": ends.bos_token,
        "positions": asdict(positions), "byte_lengths": "byte_lengths.npy", "sources": done,
    }  # fmt: skip
    write_json(out / "index.json", index)
    facts = [{key: made[key] for key in ("name", "role", "tokens", "bytes", "documents")} for made in done]
    return {**_sum(done), "sources": facts, "encoder": f"{encoder.name} {encoder.version}", "eos": ends.eos_token, "bos": ends.bos_token}


def _shard(
    out: Path, source: str, number: int, file: Path, encoder: Encoder, ends: Separators, vocab: int, reporter: Reporter
) -> dict[str, Any]:
    """Counts of the shard of one clean file, encoded now or before."""
    name, dtype = f"{number:05d}", dtype_for(vocab)
    counts = finished_shard(out / source, name, dtype)
    if counts is None:
        with write_shard(out / source, name, dtype) as writer:
            for ids, texts, sizes in _documents(file):
                flat, lengths = encode(texts, encoder, ends, vocab)
                writer.add(flat, lengths, ids, sizes)
        counts = finished_shard(out / source, name, dtype)
        assert counts is not None, "the shard was just written"
    if not counts.documents:
        reporter.warn(f"source {source}: {file.name} holds no document")
    return {"name": f"{source}/{name}", **asdict(counts), "sha256": sha256_file(out / source / f"{name}.bin")}


def _documents(file: Path) -> Iterator[tuple[list[str], list[str], npt.NDArray[np.int64]]]:
    """(ids, texts, UTF-8 bytes of the texts) by the batch."""
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_BATCH_DOCUMENTS, columns=["id", "text"]):
            text = batch.column("text")
            if text.null_count:
                raise UserError("a document has no text (null)", where=str(file), fix="run the corpus stage again: it drops such rows")
            yield batch.column("id").to_pylist(), text.to_pylist(), pc.binary_length(text).to_numpy().astype(np.int64)


def _sample(sources: list[TokenSource]) -> list[str]:
    """Documents from the start of every file, at most 2,000 and about 4 MB in all: what a fast encoder has to prove itself on."""
    files = [file for source in sources for file in source.files]
    sample: list[str] = []
    for file in files:
        wanted, room = max(1, _SAMPLE_DOCUMENTS // len(files)), max(1, _SAMPLE_BYTES // len(files))
        with pq.ParquetFile(file) as parquet:
            rows = next(parquet.iter_batches(wanted, columns=["text"]), None)
        for text in [] if rows is None else rows.column("text").to_pylist():
            if room <= 0 or text is None:
                break
            sample.append(text[:room])
            room -= len(text.encode())
    return sample


def _text_bytes(file: Path) -> int:
    """Uncompressed bytes of a clean file, from its footer."""
    meta = pq.read_metadata(file)
    return sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))


def rows_stage(cfg: TokensRecipe, tokens: Path, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Packs every shard in `tokens` into rows of `cfg.row_tokens`; writes `<source>/00000.rows.npz` and rows.json into `out`.

    Returns rows, tokens (pieces' tokens, overlaps counted), fill and the sources' counts. Shards that are packed already stay. UserError
    where the model has fewer learned positions than a row has tokens.
    """
    opened = open_tokens(tokens)
    _warn(reporter, check_row_tokens(Positions(**opened.index["positions"]), cfg.row_tokens))
    done: list[dict[str, Any]] = []
    with reporter.bar("pack", sum(source.tokens for source in opened.sources), "tokens") as bar:
        for source in opened.sources:
            tables, files = [], []
            for shard in source.shards:
                check_stop()
                files.append(f"{shard.name}.rows.npz")
                tables.append(_rows(cfg, shard, out / files[-1]))
                bar.advance(int(shard.ends[-1]) if len(shard.ends) else 0, source.name)
            done.append({"name": source.name, "role": source.role, "files": files} | _filled(cfg.row_tokens, source, tables))
    for made in (made for made in done if made["rows"]):
        reporter.say(
            f"{made['name']}: {made['rows']:,} rows of {cfg.row_tokens:,} tokens, {made['fill']:.2%} full, "
            f"{made['cut_documents']:,} of {made['documents']:,} documents cut"
        )
    write_json(
        out / "rows.json", {"format": FORMAT, "row_tokens": cfg.row_tokens, "packing": cfg.packing, "seed": cfg.seed, "sources": done}
    )
    rows, used = (sum(made[key] for made in done) for key in ("rows", "tokens"))
    facts = [{key: value for key, value in made.items() if key != "files"} for made in done]
    return {"rows": rows, "tokens": used, "fill": used / max(1, rows * cfg.row_tokens), "row_tokens": cfg.row_tokens, "sources": facts}


def _rows(cfg: TokensRecipe, shard: Shard, path: Path) -> RowTable:
    if path.is_file():
        return read_rows(path)
    table = pack(shard.lengths, cfg.row_tokens, key_of("pack", cfg.seed, shard.name), cfg.packing)
    arrays = io.BytesIO()
    np.savez(arrays, starts=table.starts, lens=table.lens, row_ptr=table.row_ptr)
    write_atomic(path, arrays.getvalue())
    return table


def _filled(row: int, source: SourceTokens, tables: list[RowTable]) -> dict[str, Any]:
    """Counts of a source's rows. fill: share of the positions that hold a token. cut_documents: in more than one piece."""
    rows, used = sum(t.rows for t in tables), sum(int(t.lens.sum()) for t in tables)
    cut = 0
    for shard, table in zip(source.shards, tables):
        document = np.searchsorted(shard.ends, table.starts, side="right")
        cut += int((np.bincount(document, minlength=1) > 1).sum())
    return {
        "rows": rows, "pieces": sum(len(t.lens) for t in tables), "tokens": used, "fill": used / max(1, rows * row),
        "documents": source.documents, "cut_documents": cut,
    }  # fmt: skip


def _config(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    if not path.is_file():
        raise UserError("there is no config.json: this is no model folder", where=str(model_dir), fix="give a folder in Hugging Face form")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _id_space(config: dict[str, Any], model_dir: Path) -> int:
    """Rows of the model's embedding: `vocab_size`, of a model with a text part that part's."""
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if not isinstance(size, int):
        raise UserError("config.json names no vocab_size", where=str(model_dir), fix="add vocab_size: the rows of the embedding")
    return size


def _sum(parts: list[dict[str, Any]]) -> dict[str, int]:
    return {key: sum(part[key] for part in parts) for key in ("tokens", "bytes", "documents")}


def _line(source: dict[str, Any]) -> str:
    ratio = source["bytes"] / max(1, source["tokens"])
    return f"{source['name']}: {source['documents']:,} documents, {source['tokens']:,} tokens, {ratio:.2f} bytes a token"


def _warn(reporter: Reporter, text: str | None) -> None:
    if text is not None:
        reporter.warn(text)
