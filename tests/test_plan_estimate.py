"""`rewarm plan` reads two megabytes of a source and says how much the rest holds, however the files are packed."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rewarm.corpus.plan import source_files
from rewarm.corpus.recipe import Source
from rewarm.looking import SourcePlan, look_at


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """8 MB in 4,000 documents that pack about as well as prose."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrst", k=rng.randint(2, 9))) for _ in range(5000)]
    return [" ".join(rng.choices(words, k=310)) for _ in range(4000)]


def looked_at(folder: Path) -> SourcePlan:
    source = Source(name="s", paths=["*"])
    return look_at(source, source_files(source, folder, "corpus.sources[0]"), lambda texts: sum(map(len, texts)))


@pytest.mark.parametrize("ending", ["txt", "jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
def test_the_size_of_the_text_is_estimated_within_a_quarter(texts, ending, tmp_path):
    """Taken as bytes on disk, a packed file seemed to be read to its end after the sample, and a plan promised a third of the tokens."""
    path = tmp_path / f"all.{ending}"
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if ending == "parquet":
        pq.write_table(pa.table({"text": texts}), path, compression="zstd")
    elif ending == "txt":
        path.write_text("\n\n".join(texts))
    else:
        path.write_bytes({"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[ending](rows))
    plan = looked_at(tmp_path)
    size = sum(map(len, texts))
    assert not plan.exact
    assert plan.bytes == pytest.approx(size, rel=0.25) and plan.tokens == pytest.approx(size, rel=0.25)
    assert plan.documents == pytest.approx(len(texts), rel=0.25)


def test_a_small_source_is_counted_exactly(texts, tmp_path):
    (tmp_path / "few.jsonl.zst").write_bytes(zstandard.compress("".join(json.dumps({"text": t}) + "\n" for t in texts[:50]).encode()))
    plan = looked_at(tmp_path)
    assert plan.exact and plan.documents == 50 and plan.bytes == sum(map(len, texts[:50]))
