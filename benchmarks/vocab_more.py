"""Beyond one language: all four at once, growth with the text, the fast encoder, fresh tokenizers. Parts of `vocab.py`.

The text grows by copies in which one letter in twenty is another letter of the same document, so that a copy brings new words and not only
higher counts; languages keep their shares."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vocab import Bench

JOINT = 16_000
GROWTH_MB = (10, 20, 40, 80, 160)
LINES = 1_000_000
FRESH = (8_000, 32_000)
FRESH_SYSTEMS = ("hf_trainer", "gigabpe")


def _row(metric: str, value: Any, unit: str, system: str, case: dict[str, Any]) -> dict[str, Any]:
    return {"metric": metric, "value": value, "unit": unit, "system": system, "case": case, "runs": [value]}


def altered(text: str, turn: int) -> str:
    """The text with one letter in twenty replaced by another letter of it; turn 0 is the text itself."""
    if turn == 0:
        return text
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4").copy()
    letters = np.flatnonzero([c.isalpha() for c in text])
    if len(letters) < 20:
        return text
    random = np.random.default_rng([turn, len(text), int(points[letters[0]])])
    at = random.choice(letters, len(letters) // 20, replace=False)
    points[at] = points[random.choice(letters, len(at))]
    return points.tobytes().decode("utf-32-le", errors="surrogatepass")


def grown(documents: list[str], size: int) -> Iterator[str]:
    """Documents of at least `size` bytes in all: the given ones, then altered copies."""
    done = 0
    for turn in itertools.count():
        for text in documents:
            if done >= size:
                return
            changed = altered(text, turn)
            done += len(changed.encode())
            yield changed


def _documents(bench: Bench, language: str) -> list[str]:
    from vocab_measure import TARGETS

    from rewarm.vocab.text import read_documents

    return [text for path in bench.train(TARGETS[language]) for text in read_documents(Path(path))]


def _grown_files(bench: Bench, megabytes: int) -> dict[str, list[str]]:
    """language -> one parquet file, all languages together of this size."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from vocab_measure import TARGETS

    folder = bench.work / f"grown-{megabytes}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        texts = {language: _documents(bench, language) for language in TARGETS}
        sizes = {language: sum(len(t.encode()) for t in some) for language, some in texts.items()}
        for language, some in texts.items():
            wanted = int(megabytes * 1_000_000 * sizes[language] / sum(sizes.values()))
            pq.write_table(pa.table({"text": list(grown(some, wanted))}), part / f"{language}.parquet", row_group_size=1000)
        part.rename(folder)
    return {language: [str(folder / f"{language}.parquet")] for language in TARGETS}


def _job(bench: Bench, out: Path, targets: dict[str, list[str]], new: int, **settings: Any) -> dict[str, Any]:
    import bases
    from vocab_measure import PROTECT

    return {
        "system": "rewarm", "base": str(bases.ensure(bench.cache, ("smollm2",))["smollm2"]), "new": new, "out": str(out),
        "targets": targets, "protect": bench.train(PROTECT), "settings": {"sample_mb": 200, **settings},
    }  # fmt: skip


def joint(bench: Bench) -> None:
    """All four languages at once; then, from the counts it left, a smaller size and another guard."""
    import bases
    from vocab_measure import TARGETS, change_rows, encode_all, fertility_rows, unreachable
    from vocab_process import run_child

    from vocab import time_rows

    part = "joint"
    if not bench.wanted(part):
        return
    targets = {language: bench.train(names) for language, names in TARGETS.items()}
    case = {"base": "smollm2", "languages": "vi+zh+ja+ko", "new": JOINT}
    first = bench.work / "joint"
    shutil.rmtree(first, ignore_errors=True)
    made = run_child("vocab_systems.py", _job(bench, first, targets, JOINT))
    rows = time_rows(made, "rewarm", case)
    folder = bases.ensure(bench.cache, ("smollm2",))["smollm2"]
    for language in TARGETS:
        before = encode_all(folder / "tokenizer.json", bench.texts, language)
        after = encode_all(Path(made["file"]), bench.texts, language)
        of_one = {**case, "language": language}
        rows += fertility_rows(before, bench.texts, language, "base", of_one)
        rows += fertility_rows(after, bench.texts, language, "rewarm", of_one)
    rows += change_rows(before, after, "rewarm", case)
    rows.append(_row("unreachable", unreachable(folder, Path(made["file"]))[1], "tokens", "rewarm", case))
    for step, new, settings in (("cached, a smaller size", 8_000, {}), ("cached, another tau", JOINT, {"tau": 0.003})):
        job = _job(bench, first, targets, new, **settings)
        again = run_child("vocab_systems.py", {**job, "stage": step.replace(", ", "-").replace(" ", "-")})
        rows += time_rows(again, "rewarm", {**case, "new": new, "from": step})
    bench.put(part, rows)


def growth(bench: Bench) -> None:
    """Time and memory at 10 to 160 MB of text."""
    from vocab_process import run_child

    from vocab import time_rows

    for megabytes in GROWTH_MB:
        part = f"growth {megabytes:03}"
        if bench.wanted(part):
            out = bench.work / "growth"
            shutil.rmtree(out, ignore_errors=True)
            made = run_child("vocab_systems.py", _job(bench, out, _grown_files(bench, megabytes), JOINT))
            case = {"base": "smollm2", "languages": "vi+zh+ja+ko", "new": JOINT, "text_mb": megabytes}
            bench.put(part, time_rows(made, "rewarm", case))


def encoder(bench: Bench) -> None:
    """The fast encoder's ids against the reference's on a million lines, with the base's tokenizer and with an extended one."""
    import bases
    from vocab_measure import PROTECT, TARGETS
    from vocab_process import run_child
    from vocab_systems import STAGE

    files = bench.train((*itertools.chain(*TARGETS.values()), *PROTECT))
    for base in ("smollm2", "gpt2", "llama3", "qwen", "llama2", "gemma"):
        folders = {"base": bases.ensure(bench.cache, (base,))[base], "extended": bench.work / f"{base}-vi-rewarm" / STAGE / "model"}
        for which, folder in folders.items():
            part = f"encoder {base} {which}"
            if not bench.wanted(part) or not (folder / "tokenizer.json").is_file():
                continue
            made = run_child(
                "vocab_more.py",
                {"tokenizer": str(folder / "tokenizer.json"), "files": files, "peers": str(bases.peers(bench.cache)), "lines": LINES},
            )
            case = {"base": base, "tokenizer": which, "lines": made["lines"]}
            rows = [_row("used", made["used"], "", "fastokens", case)]
            for system, found in made["systems"].items():
                rows.append(_row("mb_per_second_per_core", found["rate"], "MB/s", system, case))
            if "differ" in made:
                rows.append(_row("different_lines", made["differ"], "lines", "fastokens", case))
            bench.put(part, rows)
            print(part, made)


def fresh(bench: Bench) -> None:
    """A tokenizer from nothing on each language's text: rewarm, Hugging Face's trainer, gigabpe; with GPT-2's split, and all 256 bytes."""
    import bases
    from vocab_measure import TARGETS, codec
    from vocab_process import run_child

    from vocab import time_rows

    for language, size in itertools.product(TARGETS, FRESH):
        for system in FRESH_SYSTEMS:
            part = f"fresh {language} {size} {system}"
            if not bench.wanted(part):
                continue
            out = bench.work / f"fresh-{language}-{size}-{system}"
            files, peers = bench.plain(language), str(bases.peers(bench.cache))
            made = run_child("vocab_systems.py", {"system": system, "size": size, "files": files, "out": str(out), "peers": peers})
            case = {"language": language, "size": size}
            if "refused" in made:
                bench.put(part, [_row("refused", made["refused"], "", system, case)])
                continue
            encode, _ = codec(Path(made["file"]))
            documents = [d for some in bench.texts.target[language].values() for d in some]
            rate = sum(len(d.encode()) for d in documents) / sum(map(len, encode(documents)))
            bench.put(part, [_row("bytes_per_token", round(rate, 4), "bytes/token", system, case), *time_rows(made, system, case)])


def encode_lines(job: dict[str, Any]) -> dict[str, Any]:
    """Encodes the first lines of the files (altered copies when they are too few) with the reference and with the fast encoder."""
    from vocab_systems import Clock

    from rewarm.vocab.encoder import open_encoder
    from rewarm.vocab.text import read_documents

    sys.path.append(job["peers"])
    documents = [text for path in job["files"] for text in read_documents(Path(path))]
    every = (line for turn in itertools.count() for text in documents for line in altered(text, turn).split("\n") if line.strip())
    path = Path(job["tokenizer"])
    reference = open_encoder(path, [], prefer=("tokenizers",))
    fast = open_encoder(path, documents[:2_000])
    systems = {"tokenizers": reference} | ({fast.name: fast} if fast.name != "tokenizers" else {})
    seconds, size, done, differ = dict.fromkeys(systems, 0.0), 0, 0, 0
    while done < job["lines"]:
        lines = list(itertools.islice(every, min(20_000, job["lines"] - done)))
        done, size = done + len(lines), size + sum(len(line.encode()) for line in lines)
        ids = []
        for name, one in systems.items():
            clock = Clock()
            ids.append(one.encode_batch(lines))
            seconds[name] += clock.read()["cpu_seconds"]
        differ += sum(not np.array_equal(a, b) for a, b in zip(ids[0], ids[-1]))
    rates = {name: {"rate": round(size / 1e6 / max(0.01, s), 2)} for name, s in seconds.items()}
    out = {"lines": done, "bytes": size, "systems": rates, "used": fast.name if len(systems) > 1 else "; ".join(fast.passed_over)}
    return out | ({"differ": differ} if len(systems) > 1 else {})


if __name__ == "__main__":
    print(json.dumps(encode_lines(json.loads(sys.argv[1]))))
