"""The two stages on disk: exact, resumable, the same bytes every time, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from rewarm import signals
from rewarm.errors import Stopped, UserError
from rewarm.progress import Silent
from rewarm.tokens import stage
from rewarm.tokens.recipe import TokensRecipe
from rewarm.tokens.shards import dtype_for, open_tokens
from rewarm.tokens.stage import TokenSource, rows_stage, tokenize_stage
from rewarm.vocab.encoder import Encoder, open_encoder, watched

CFG = TokensRecipe(row_tokens=64)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_ten_lines_of_numpy_read_the_documents_back(folders, sources, model_dir):
    """The format is documented and open: no code of ours is needed to read it."""
    folder = folders[0]
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    index = json.loads((folder / "index.json").read_text())
    for source, entry in zip(sources, index["sources"], strict=True):
        for file, shard in zip(source.files, entry["shards"], strict=True):
            ids = np.memmap(folder / f"{shard['name']}.bin", dtype=index["dtype"], mode="r")
            ends = np.load(folder / f"{shard['name']}.ends.npy")
            texts = []
            for start, end in zip([0, *ends[:-1].tolist()], ends.tolist()):
                assert ids[end - 1] == index["eos"]
                texts.append(tokenizer.decode(ids[start : end - 1].tolist()))
            assert texts == pq.read_table(file)["text"].to_pylist()


def test_counts_are_those_of_the_text(folders, sources):
    """Bits a byte rest on the bytes: for byte-level tokenizers the ids' lengths add up to them, document by document."""
    tokens = open_tokens(folders[0])
    for source, opened in zip(sources, tokens.sources, strict=True):
        texts = [t for file in source.files for t in pq.read_table(file)["text"].to_pylist()]
        assert opened.bytes == sum(len(t.encode()) for t in texts) and opened.documents == len(texts)
        assert opened.tokens == sum(len(shard.ids) for shard in opened.shards)
        for shard in opened.shards:
            docs = pq.read_table(folders[0] / f"{shard.name}.docs.parquet")
            assert docs["tokens"].to_pylist() == shard.lengths.tolist()
            sizes = np.add.reduceat(tokens.byte_lengths[shard.ids], shard.ends - shard.lengths)
            assert docs["bytes"].to_pylist() == sizes.tolist()


def test_the_same_input_gives_the_same_bytes(folders, sources, model_dir, tmp_path):
    tokenize_stage(CFG, model_dir, sources, tmp_path / "tokens", Silent())
    rows_stage(CFG, tmp_path / "tokens", tmp_path / "rows", Silent())
    assert contents(tmp_path / "tokens") == contents(folders[0])
    assert contents(tmp_path / "rows") == contents(folders[1])


def test_finished_shards_stay_and_broken_ones_are_made_again(folders, sources, model_dir, tmp_path):
    """A shard whose last file is missing, or whose ids were cut, is redone; one that is whole is not touched."""
    out = tmp_path / "tokens"
    tokenize_stage(CFG, model_dir, sources, out, Silent())
    kept = out / "law" / "00001.bin"
    before = kept.stat().st_mtime_ns
    (out / "index.json").unlink()
    (out / "law" / "00000.docs.parquet").unlink()
    os.truncate(out / "wiki" / "00000.bin", 10)
    tokenize_stage(CFG, model_dir, sources, out, Silent())
    assert contents(out) == contents(folders[0]) and kept.stat().st_mtime_ns == before


def test_a_stop_between_two_shards_keeps_the_first_and_a_rerun_ends_the_same(folders, sources, model_dir, tmp_path):
    class StopsAfterOne(Silent):
        def bar(self, label, total, unit):
            from contextlib import contextmanager

            class Bar:
                def advance(self, amount=1, note=""):
                    signals.request_stop("a test")

            @contextmanager
            def made():
                yield Bar()

            return made()

    out = tmp_path / "tokens"
    try:
        with pytest.raises(Stopped):
            tokenize_stage(CFG, model_dir, sources, out, StopsAfterOne())
    finally:
        signals.clear_stop()
    assert (out / "law" / "00000.docs.parquet").is_file() and not (out / "index.json").exists()
    tokenize_stage(CFG, model_dir, sources, out, Silent())
    assert contents(out) == contents(folders[0])


def test_a_fast_encoder_that_fails_at_work_is_replaced_and_its_shard_made_again(folders, sources, model_dir, tmp_path, monkeypatch):
    """Its ids would train without an error. The shards are those of the reference, and the result says who made them."""
    reference = open_encoder(model_dir / "tokenizer.json", [])
    calls = []

    def broken(texts):
        calls.append(len(texts))
        return [ids[:-1] for ids in reference.encode_batch(texts)]

    fast = watched(Encoder("fast", "1", broken), reference, every=2)
    monkeypatch.setattr(stage, "open_encoder", lambda *_: fast)
    said = Silent()
    made = tokenize_stage(CFG, model_dir, sources, tmp_path, said)
    assert len(calls) == 1 and made["encoder"] == f"tokenizers {reference.version}"
    assert "encoded again by tokenizers" in said.warnings[0] and sources[0].files[0].name in said.warnings[0]
    assert contents(tmp_path) == contents(folders[0])


def test_killed_at_any_moment_a_rerun_gives_the_same_bytes(folders, sources, model_dir, tmp_path):
    """kill -9, three moments: what is whole stays, what is not is made again, nothing half is believed."""
    listed = [[s.name, s.role, [str(f) for f in s.files]] for s in sources]
    code = (
        "import json, sys\nfrom pathlib import Path\n"
        "from rewarm.progress import Silent\nfrom rewarm.tokens.recipe import TokensRecipe\n"
        "from rewarm.tokens.stage import TokenSource, rows_stage, tokenize_stage\n"
        "made = [TokenSource(n, r, tuple(map(Path, f))) for n, r, f in json.loads(sys.argv[1])]\n"
        "out, cfg = Path(sys.argv[3]), TokensRecipe(row_tokens=64)\nprint('go', flush=True)\n"
        "tokenize_stage(cfg, Path(sys.argv[2]), made, out / 'tokens', Silent())\n"
        "rows_stage(cfg, out / 'tokens', out / 'rows', Silent())\nprint('end', flush=True)\n"
    )
    arguments = [sys.executable, "-c", code, json.dumps(listed), str(model_dir), str(tmp_path)]
    for delay in (0.0, 0.02, 0.05):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "go\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
    subprocess.run(arguments, check=True, timeout=60, stdout=subprocess.DEVNULL)
    for name, folder in (("tokens", folders[0]), ("rows", folders[1])):
        whole = {path: data for path, data in contents(tmp_path / name).items() if ".tmp-" not in path}
        assert whole == contents(folder)


def test_an_empty_file_is_a_warning_and_nothing_at_all_an_error(model_dir, tmp_path, write):
    """One source may have lost all its documents to cleaning; a run of nothing must not look like one of something."""
    empty, full = write(tmp_path / "empty.parquet", []), write(tmp_path / "full.parquet", ["một con đường"])
    reporter = Silent()
    counts = tokenize_stage(
        CFG, model_dir, [TokenSource("a", "new", (empty, full)), TokenSource("b", "new", (empty,))], tmp_path / "t", reporter
    )
    assert counts["documents"] == 1
    assert any("a: empty.parquet holds no document" in w for w in reporter.warnings)
    assert any("source b is empty" in w for w in reporter.warnings)
    counts = rows_stage(CFG, tmp_path / "t", tmp_path / "r", reporter)
    assert [s["rows"] for s in counts["sources"]] == [1, 0]
    with pytest.raises(UserError, match="every source is empty"):
        tokenize_stage(CFG, model_dir, [TokenSource("b", "new", (empty,))], tmp_path / "t2", Silent())


def test_an_id_beyond_the_models_rows_stops_before_training(make_model, tmp_path, write):
    """On a GPU it would be silent nonsense hours later. The last row is there, the one after it is not."""
    docs = write(tmp_path / "docs.parquet", ["the old road and the new road"])
    made = [TokenSource("a", "new", (docs,))]
    tokenize_stage(CFG, make_model(tmp_path / "model"), made, tmp_path / "t", Silent())
    last = int(open_tokens(tmp_path / "t").sources[0].shards[0].ids.max())
    model = make_model(tmp_path / "small", vocab=last)
    with pytest.raises(UserError, match=f"makes id {last}, and the model has rows 0 to {last - 1}"):
        tokenize_stage(CFG, model, made, tmp_path / "t2", Silent())
    assert not list((tmp_path / "t2").rglob("*.bin"))
    tokenize_stage(CFG, make_model(tmp_path / "exact", vocab=last + 1), made, tmp_path / "t3", Silent())


def test_ids_take_two_bytes_where_they_fit_and_four_where_not(make_model, tmp_path, write):
    assert [dtype_for(n) for n in (300, 65_536, 65_537)] == ["<u2", "<u2", "<u4"]
    docs = write(tmp_path / "docs.parquet", ["con đường mới"] * 4)
    read = []
    for vocab in (320, 70_000):
        out = tmp_path / str(vocab)
        tokenize_stage(CFG, make_model(tmp_path / f"m{vocab}", vocab=vocab), [TokenSource("a", "new", (docs,))], out, Silent())
        opened = open_tokens(out)
        assert len(opened.byte_lengths) == vocab
        read.append(opened.sources[0].shards[0].ids)
    assert read[0].dtype == np.uint16 and read[1].dtype == np.uint32 and read[0].tolist() == read[1].tolist()


def test_documents_begin_with_the_token_that_the_base_puts_there(make_model, tmp_path, write):
    """A base that always saw a begin token reads badly without; it comes once, and the first word is then a label."""
    model = make_model(tmp_path / "model", tokenizer_config={"add_bos_token": True, "bos_token": "<|im_start|>"})
    docs = write(tmp_path / "docs.parquet", ["con đường", "<|im_start|>x"])
    tokenize_stage(CFG, model, [TokenSource("a", "new", (docs,))], tmp_path / "t", Silent())
    tokens = open_tokens(tmp_path / "t")
    shard = tokens.sources[0].shards[0]
    assert tokens.bos == 1 and shard.ids[[0, int(shard.ends[0])]].tolist() == [1, 1] and (shard.ids == 1).sum() == 2


def test_the_recipe_reads_the_separator_it_names(make_model, tmp_path, write):
    docs = write(tmp_path / "docs.parquet", ["con đường"])
    model = make_model(tmp_path / "model")
    for eos, number in (("auto", 0), ("<|im_end|>", 2)):
        out = tmp_path / f"t{number}"
        facts = tokenize_stage(TokensRecipe(eos=eos), model, [TokenSource("a", "new", (docs,))], out, Silent())
        assert open_tokens(out).sources[0].shards[0].ids[-1] == number and facts["eos"] == ("<|endoftext|>" if not number else eos)


def test_every_field_of_tokens_changes_the_rows_or_the_ids(folders, tmp_path):
    """row_tokens, packing and seed; eos has its own test."""
    made = []
    for i, changes in enumerate([{}, {"row_tokens": 32}, {"packing": "chop"}, {"seed": 1}]):
        rows_stage(TokensRecipe(**({"row_tokens": 64} | changes)), folders[0], tmp_path / str(i), Silent())
        made.append((tmp_path / str(i) / "law" / "00000.rows.npz").read_bytes())
    assert len(set(made)) == 4


def test_rows_longer_than_learned_positions_stop_both_stages(make_model, tmp_path, write):
    """A table of 128 positions has no 129th, whatever the tokenizer's model_max_length says."""
    docs = write(tmp_path / "docs.parquet", ["con đường"])
    model = make_model(tmp_path / "model", config={"model_type": "gpt2", "n_positions": 128, "max_position_embeddings": None})
    with pytest.raises(UserError, match="256 > 128 positions of gpt2"):
        tokenize_stage(TokensRecipe(row_tokens=256), model, [TokenSource("a", "new", (docs,))], tmp_path / "t", Silent())
    tokenize_stage(TokensRecipe(row_tokens=128), model, [TokenSource("a", "new", (docs,))], tmp_path / "t", Silent())
    with pytest.raises(UserError, match="256 > 128 positions of gpt2"):
        rows_stage(TokensRecipe(row_tokens=256), tmp_path / "t", tmp_path / "r", Silent())


def test_rows_longer_than_rotary_positions_are_said(folders, tmp_path):
    reporter = Silent()
    rows_stage(TokensRecipe(row_tokens=1024), folders[0], tmp_path, reporter)
    assert any("1,024 are longer than the 512 positions that llama" in w for w in reporter.warnings)


def test_the_report_of_rows_counts_what_was_cut(folders, tmp_path):
    counts = rows_stage(TokensRecipe(row_tokens=64), folders[0], tmp_path, Silent())
    for source, opened in zip(counts["sources"], open_tokens(folders[0]).sources):
        lengths = np.concatenate([shard.lengths for shard in opened.shards])
        assert source["cut_documents"] == (lengths > 64).sum() > 0
        assert source["tokens"] == lengths.sum() + source["pieces"] - len(lengths)
        assert 0.9 < source["fill"] <= 1


def test_a_changed_or_missing_shard_is_named(folders, tmp_path):
    import shutil

    shutil.copytree(folders[0], tmp_path / "t")
    os.truncate(tmp_path / "t" / "old" / "00000.bin", 6)
    with pytest.raises(UserError, match=r"old/00000.bin[\s\S]*damaged"):
        open_tokens(tmp_path / "t")
    with pytest.raises(UserError, match=r"index\.json is missing"):
        open_tokens(tmp_path)
