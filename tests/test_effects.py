"""No field without effect: changing any field of the recipe changes what a run makes, and the run notices.

Every field has a case: another valid value, and the stage whose result shows the difference. The stages are those of a run, wired as in a
run, all in one run folder: so a field that a stage reads but its fingerprint does not hold gives the old result back and fails here too.
What only repeats the recipe (a settings entry, a key) is left out of every observation.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rewarm import rooms
from rewarm.atomic import read_json
from rewarm.corpus.read_back import Corpus, open_corpus
from rewarm.errors import Stopped, UserError
from rewarm.planning import lengths
from rewarm.progress import Silent
from rewarm.recipe import load_recipe, reference
from rewarm.rooms import Feed, House, ModelAt
from rewarm.stages import Done, RunFolder

HEADS, TAILS = "b c d f g l m n p r s t w st tr pl", "ake ent ing old ore and est ill ock ear ay our ish"
ENGLISH = [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]
HEADS, TAILS = "b c d đ g h l m n q t v x ch kh ng nh ph th tr", "á à ả ãi ạ ăn ấn ậy êu ọc ính ường ước iệt ông oà ĩa ếp ộng"
VIETNAMESE = [head + tail for head in HEADS.split(" ") for tail in TAILS.split(" ")]
RECIPE = """\
name: house
model: {base: base}
corpus:
  sources:
    - {name: vi, paths: [new.jsonl], role: new, languages: [vi], licence: MIT, max_bad_share: 0.2}
    - {name: law, paths: [law.txt], role: new, languages: [vi], licence: MIT}
    - {name: en, paths: [old.txt], role: replay, languages: [en], licence: MIT}
  heldout: {share: 0.05, min_mb: 0.002, max_mb: 0.004}
vocab: {extend: false, tau: off, size: 60}
tokens: {row_tokens: 64}
train: {tokens: 1024, step_tokens: 256, lr: 1e-2, device: cpu, precision: fp32, probe_every: off}
keep: {mixback: off}
evaluate: {max_mb: 0.003, dtype: fp32, prefix: none, window: 256, stride: 128, samples: 0}
"""


# The world


def documents(words: list[str], count: int, seed: int) -> list[str]:
    """Documents of two or three lines, the first words often, a number in each line: other ones in each language."""
    rng = np.random.default_rng(seed)
    first = 1990 if words is ENGLISH else 7010
    out = []
    for _ in range(count):
        lines = []
        for _ in range(rng.integers(2, 4)):
            picked = (rng.random(rng.integers(10, 18)) ** 2 * len(words)).astype(int)
            lines.append(" ".join(words[i] for i in picked).capitalize() + f" {first + rng.integers(0, 40)}.")
        out.append("\n".join(lines))
    return out


def write_base(folder: Path, texts: list[str], seed: int = 0) -> None:
    """A tiny Llama; its byte-level tokenizer lacks some bytes, and has an end for documents and one for turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = [letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter not in "êÀ"]
    specials = ["<|endoftext|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=letters, show_progress=False)
    )
    write_model(folder, tokenizer.get_vocab_size(), seed)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_pieces(folder: Path, texts: list[str]) -> None:
    """The same model with a SentencePiece tokenizer, of which only tokenizer.json is left."""
    from sentencepiece import SentencePieceTrainer

    from rewarm.vocab.sp_base import spec_of_model

    folder.mkdir()
    file = folder / "tokenizer.model"
    with file.open("wb") as stream:
        SentencePieceTrainer.train(
            sentence_iterator=iter("\n".join(texts).split("\n")), model_writer=stream, vocab_size=400, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, num_threads=1,
        )  # fmt: skip
    spec = spec_of_model(folder)
    file.unlink()
    write_model(folder, 400, 0)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}))


def write_model(folder: Path, rows: int, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_world(folder: Path) -> None:
    import unicodedata

    old = documents(ENGLISH, 300, 1)
    (folder / "old.txt").write_text("\n\n".join(old), encoding="utf-8")
    mixed = documents(ENGLISH, 13_000, 3)
    for i, text in enumerate(documents(VIETNAMESE, 400, 4)):  # an encyclopaedia does name places abroad
        mixed[30 * i] += "\n" + text
    (folder / "big.txt").write_text("\n\n".join(mixed), encoding="utf-8")
    rows: list[Any] = [{"text": t, "body": "Another field: " + t, "no": f"d{i}"} for i, t in enumerate(documents(VIETNAMESE, 400, 2))]
    for i in range(0, 60, 3):
        rows[i]["text"] = unicodedata.normalize("NFD", rows[i]["text"])
    rows += [
        {"text": f"Trang này được in lại nhiều lần, lần thứ {i} hay hơn\n" + "Mục lục và bảng biểu xxqq yyww zzkk\n" * 3} for i in range(40)
    ]
    rows += [{"text": "Ngắn thôi mà, không dài."}, rows[5], {"text": rows[7]["text"] + "\nThêm một dòng ở cuối."}]
    rows += [{"none": i} for i in range(20)]
    (folder / "new.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    articles = [f"Điều {i}. {text}" for i, text in enumerate(documents(VIETNAMESE, 120, 5), 1)]
    (folder / "law.txt").write_text(
        "\n".join(itertools.chain.from_iterable(zip(articles, itertools.cycle(["", "Chương này"])))), encoding="utf-8"
    )
    (folder / "more.jsonl").write_text(
        "".join(json.dumps({"text": t, "body": t[: len(t) // 2]}, ensure_ascii=False) + "\n" for t in documents(ENGLISH, 20, 6))
    )
    (folder / "other.txt").write_text("\n\n".join(documents(ENGLISH, 60, 7)), encoding="utf-8")
    for name, words in (("short", VIETNAMESE[:3]), ("long", VIETNAMESE)):
        (folder / f"{name}.txt").write_text("\n".join(" ".join(words) for _ in range(9)), encoding="utf-8")
    write_base(folder / "base", old)
    write_base(folder / "base2", old, seed=1)
    write_pieces(folder / "pieces", old)
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")


class World:
    """The texts, the base and the one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        write_world(folder)

    def house(self, overrides: tuple[str, ...], fresh: bool = False) -> House:
        """What the stages share; `fresh`: with a run folder of its own."""
        loaded, reporter = load_recipe(self.folder / "recipe.yaml", overrides), Silent()
        run = self.folder / (f"run-{next(self._numbers)}" if fresh else "run")
        return House(loaded.recipe, loaded.root, RunFolder(run, reporter), reporter)


@dataclass(frozen=True)
class Way:
    """The stages up to the mixture, as `run` goes through them."""

    house: House
    base: ModelAt
    corpus_done: Done
    corpus: Corpus
    vocab_done: Done | None
    start: ModelAt

    @classmethod
    def of(cls, house: House) -> Way:
        base, done = rooms.base_stage(house), rooms.corpus_stage(house)
        corpus = open_corpus(done.folder)
        vocab_done, start = rooms.vocab_stage(house, base, done, corpus)
        return cls(house, base, done, corpus, vocab_done, rooms.rope_stage(house, start))

    def rows(self) -> tuple[Done, Done, Feed]:
        tokens, rows = rooms.rows_stage(self.house, self.start, self.corpus_done, self.corpus)
        return tokens, rows, rooms.feed(self.house, tokens, rows, self.corpus)

    def train(self, house: House | None = None) -> Done:
        _, rows, feed = self.rows()
        return rooms.train_stage(house or self.house, self.base, self.start, self.corpus_done, self.corpus, rows, feed)

    def mix(self, trained: Done) -> Done:
        return rooms.mixback_stage(self.house, self.base, self.start, trained, self.corpus_done, self.corpus)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import torch

    from rewarm.vocab import gate

    some = gate.all_characters()[::200]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # the gate is tested elsewhere
        patch.setattr(gate, "FUZZED", 50)
        patch.setattr(gate, "all_characters", lambda: some)
        yield World(tmp_path_factory.mktemp("world"))
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


# What is looked at


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sha_of_arrays(*arrays: Any) -> str:
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, np.asarray(array))
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def base(house: House) -> Any:
    return digest(rooms.base_stage(house).folder / "model.safetensors")


def corpus(house: House) -> Any:
    """Documents, held-out documents, samples, counts, warnings; not the reports, which repeat settings."""
    done = rooms.corpus_stage(house)
    files = {str(p.relative_to(done.folder)): digest(p) for p in sorted(done.folder.glob("*/**/*")) if p.is_file()}
    counts = {key: value for key, value in read_json(done.folder / "corpus.json").items() if key != "key"}
    return files, counts, house.reporter.warnings


def vocab(house: House) -> Any:
    """The new tokens and their uses, the rows, the curve, what the gate measured."""
    way = Way.of(house)
    done = way.vocab_done
    if done is None or not done.facts["extended"]:
        return "not extended"
    extension = read_json(done.folder / "extension.json")
    weights = digest(way.start.folder / "model.safetensors")
    return extension["tokens"], extension["rows"], read_json(done.folder / "curve.json"), done.facts, weights


def files(house: House) -> Any:
    """Names of the extended model's files."""
    return sorted(path.name for path in Way.of(house).start.folder.iterdir())


def rows(house: House) -> Any:
    tokens, packed, _ = Way.of(house).rows()
    bins = {str(p.relative_to(tokens.folder)): digest(p) for p in sorted(tokens.folder.rglob("*.bin"))}
    tables = {}
    for path in sorted(packed.folder.rglob("*.npz")):
        with np.load(path) as table:
            tables[str(path.relative_to(packed.folder))] = sha_of_arrays(table["starts"], table["lens"], table["row_ptr"])
    return bins, tables


def batches(house: House) -> Any:
    """The first two steps."""
    from rewarm.tokens.loader import batch

    mixture = Way.of(house).rows()[2].mixture
    made = [batch(mixture, step) for step in (0, 1)]
    return [(sha_of_arrays(b.ids, b.labels), np.bincount(b.source, minlength=3).tolist()) for b in made]


def reads(house: House) -> Any:
    """What a run says about how often a text is read."""
    feed = Way.of(house).rows()[2]
    return [source["warning"] for source in feed.mixture.describe(feed.steps or 1)]


def replay(house: House) -> Any:
    return Way.of(house).rows()[2].replay


def length(house: House) -> Any:
    return lengths(house.recipe.train, house.recipe.tokens, 100_000, 0.25, "cpu")


def device(house: House) -> Any:
    return rooms.device_of(house.recipe)


def trained(house: House) -> Any:
    """The weights, how they were computed, and when they were probed."""
    done = Way.of(house).train()
    kernels = read_json(done.folder / "kernels.json")
    return digest(done.folder / "model" / "model.safetensors"), kernels["precision"], kernels["deterministic"], events(done.folder, "probe")


def events(folder: Path, *kinds: str) -> list[Any]:
    file = folder / "events.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [(line["event"], line["step"]) for line in lines if line["event"] in kinds]


def cadence(house: House) -> Any:
    """When things happen in a training of its own folder: lines, checkpoints, those kept, rows at once, layers compiled, and its end."""
    import torch

    from rewarm.train.checkpoint import Checkpointer

    compiled: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpointer, "remove_all", lambda self: None)
        patch.setattr(torch.nn.Module, "compile", lambda self, **how: compiled.append(how))
        own = House(house.recipe, house.root, RunFolder(house.run.folder / "own", house.reporter), house.reporter)
        try:
            Way.of(house).train(own)
            end = "done"
        except Stopped as reason:
            end = type(reason).__name__
    folder = next((house.run.folder / "own").glob("train-*"))
    lines = len((folder / "metrics.jsonl").read_text().splitlines())
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return lines, events(folder, "checkpoint"), kept, read_json(folder / "plan.json")["micro_rows"], len(compiled), end


def mixed(house: House) -> Any:
    way = Way.of(house)
    done = way.mix(way.train())
    return done.facts["alpha"], digest(done.folder / "model" / "model.safetensors")


def evaluated(house: House) -> Any:
    """Figures, the protocol and samples."""
    way = Way.of(house)
    mix = way.mix(way.train())
    done = rooms.evaluate_stage(house, way.base, way.start, mix, way.corpus_done, way.corpus)
    results = read_json(done.folder / "results.json")
    protocol = {key: value for key, value in results["protocol"].items() if key != "hash"}
    return results["texts"], protocol, (done.folder / "samples.jsonl").read_text()


def card(house: House) -> Any:
    from rewarm.export import stage as export

    way = Way.of(house)
    done = way.train()
    mix = way.mix(done)
    with pytest.MonkeyPatch.context() as patch:  # the proof by other programs takes seconds, and tells nothing about fields
        patch.setattr(export, "check_hf", lambda folder, lines, prompt: _Findings())
        results = {"texts": {}}
        exported = rooms.export_stage(house, way.base, way.corpus, way.vocab_done, done, mix, mix, results, [])
    return (exported.folder / "model" / "README.md").read_text(encoding="utf-8")


class _Findings:
    changed, lines, prompt, continuation = (), 0, "", ""

    def as_json(self) -> dict[str, Any]:
        return {}


# The cases


@dataclass(frozen=True)
class Case:
    """Another value of a field, where it shows, and what else must be set for it to show.

    fresh: in a run folder of its own. refusal: what the error says, where the other value ends in one.
    """

    look: Callable[[House], Any]
    other: str | tuple[str, ...]
    given: tuple[str, ...] = ()
    fresh: bool = False
    refusal: str = ""


EXTENDED = ("vocab.extend=true",)
TWO = (*EXTENDED, "corpus.sources[1].languages=[fr]")
GUARDED = (*EXTENDED, "vocab.tau=1.0", "vocab.max_changed_lines=1.0", "corpus.sources[2].paths=[big.txt]", "vocab.size=200")
TEXT = ("evaluate.texts=[{name: more, path: more.jsonl, role: old}]",)
LONGER = ("model.rope={context: 4096, type: yarn}",)
CASES: dict[str, Case] = {
    "name": Case(card, "other"),
    "model.base": Case(base, "base2"),
    "model.gguf": Case(base, "old.txt", given=("model={base: base}",), refusal="not a whole GGUF file"),
    "model.rope.context": Case(trained, "8192", given=LONGER),
    "model.rope.type": Case(trained, "linear", given=LONGER),
    "corpus.sources[].name": Case(corpus, "viet"),
    "corpus.sources[].paths": Case(corpus, "[new.jsonl, more.jsonl]"),
    "corpus.sources[].format": Case(corpus, "txt"),
    "corpus.sources[].text_field": Case(corpus, "body", given=("corpus.sources[0].max_bad_share=1",)),
    "corpus.sources[].id_field": Case(corpus, "no"),
    "corpus.sources[].txt_unit": Case(
        corpus, "article", given=("corpus.sources[0].paths=[law.txt]", "corpus.sources[1].paths=[other.txt]")
    ),
    "corpus.sources[].role": Case(batches, "replay"),
    "corpus.sources[].languages": Case(replay, "[en]", given=("corpus.sources[1].languages=[en]",)),
    "corpus.sources[].licence": Case(card, "CC-BY-4.0"),
    "corpus.sources[].max_bad_share": Case(corpus, "0.01", refusal="20 of 463 rows cannot be used"),
    "corpus.normalise.unicode": Case(corpus, "keep"),
    "corpus.heldout.share": Case(corpus, "0.09", given=("corpus.heldout.max_mb=1",)),
    "corpus.heldout.min_mb": Case(corpus, "0.003", given=("corpus.heldout.share=0",)),
    "corpus.heldout.max_mb": Case(corpus, "0.003"),
    "corpus.decontaminate.ngram": Case(corpus, "4"),
    "corpus.min_chars": Case(corpus, "10"),
    "corpus.seed": Case(corpus, "1"),
    "vocab.extend": Case(vocab, "true"),
    "vocab.size": Case(vocab, "40", given=EXTENDED),
    "vocab.max_size": Case(vocab, "50", given=(*EXTENDED, "vocab.size=auto", "vocab.max_size=30")),
    "vocab.min_gain": Case(vocab, "9", given=("vocab.extend=auto",)),
    "vocab.balance": Case(vocab, "{vi: 1, fr: 9}", given=TWO),
    "vocab.parallel": Case(
        vocab, "{vi: long.txt, fr: short.txt}", given=(*TWO, "vocab.balance=parity", "vocab.parallel={vi: short.txt, fr: long.txt}")
    ),
    "vocab.tau": Case(vocab, "0.01", given=GUARDED),
    "vocab.name_guard": Case(vocab, "1.0", given=GUARDED),
    "vocab.max_changed_lines": Case(vocab, "0", given=GUARDED, refusal="protected lines would change, 0 are allowed"),
    "vocab.rules.character": Case(vocab, "false", given=(*EXTENDED, "vocab.size=300")),
    "vocab.rules.digits": Case(vocab, "allow", given=EXTENDED),
    "vocab.rules.max_chars": Case(vocab, "2", given=EXTENDED),
    "vocab.rules.max_bytes": Case(vocab, "3", given=EXTENDED),
    "vocab.rules.repeat_cap": Case(vocab, "200", given=EXTENDED),
    "vocab.words": Case(vocab, "[thườngcảngh]", given=EXTENDED),
    "vocab.special_tokens": Case(vocab, "[<|tool|>]", given=EXTENDED),
    "vocab.min_uses": Case(vocab, "20", given=EXTENDED),
    "vocab.init": Case(vocab, "mean", given=EXTENDED),
    "vocab.init_output": Case(vocab, "mean", given=EXTENDED, refusal="shares its output rows"),
    "vocab.check_bits": Case(vocab, "false", given=GUARDED),
    "vocab.pad_to": Case(vocab, "64", given=(*EXTENDED, "vocab.size=40")),
    "vocab.model_file": Case(files, "always", given=(*EXTENDED, "model.base=pieces")),
    "vocab.repair_bytes": Case(vocab, "false", given=EXTENDED),
    "vocab.sample_mb": Case(vocab, "1", given=GUARDED),
    "vocab.seed": Case(vocab, "1", given=EXTENDED),
    "tokens.row_tokens": Case(rows, "32"),
    "tokens.packing": Case(rows, "chop"),
    "tokens.eos": Case(rows, "<|im_end|>"),
    "tokens.seed": Case(rows, "1"),
    "mixture.replay": Case(batches, "0.5"),
    "mixture.weights": Case(batches, "{vi: 1, law: 9, en: 1}"),
    "mixture.max_epochs.new": Case(reads, "0.001"),
    "mixture.max_epochs.replay": Case(reads, "0.001"),
    "train.tokens": Case(length, "2048"),
    "train.max_minutes": Case(length, "1", given=("train.tokens=auto",)),
    "train.max_hours": Case(cadence, "1e-9", fresh=True),
    "train.step_tokens": Case(batches, "128"),
    "train.micro_rows": Case(cadence, "1", fresh=True),
    "train.lr": Case(trained, "5e-3"),
    "train.lr_scale.new_rows": Case(trained, "1", given=EXTENDED),
    "train.weight_decay": Case(trained, "0.5"),
    "train.betas": Case(trained, "[0.8, 0.95]"),
    "train.eps": Case(trained, "1e-3"),
    "train.clip": Case(trained, "1e-3"),
    "train.schedule": Case(trained, "linear"),
    "train.warmup_share": Case(trained, "0.5"),
    "train.min_ratio": Case(trained, "0.5"),
    "train.plateau_ratio": Case(trained, "0.8", given=("train.schedule=infinite",)),
    "train.cooldown_share": Case(trained, "0.3", given=("train.schedule=infinite",)),
    "train.anneal_share": Case(trained, "0.5", given=("train.schedule=wsd",)),
    "train.anneal": Case(trained, "linear", given=("train.schedule=wsd", "train.anneal_share=0.5")),
    "train.device": Case(device, "cuda", refusal="torch sees no GPU here"),
    "train.precision": Case(trained, "mixed"),
    "train.compile": Case(cadence, "true", fresh=True),
    "train.probe_every": Case(trained, "2"),
    "train.checkpoint_steps": Case(cadence, "2", fresh=True),
    "train.checkpoint_minutes": Case(cadence, "1e-9", fresh=True),
    "train.keep_last": Case(cadence, "1", given=("train.checkpoint_steps=1",), fresh=True),
    "train.log_every": Case(cadence, "2", fresh=True),
    "train.deterministic": Case(trained, "true"),
    "train.seed": Case(batches, "1"),
    "keep.mixback": Case(mixed, "0.5"),
    "keep.methods": Case(trained, "[distill]"),
    "keep.distill.weight": Case(trained, "0.9", given=("keep.methods=[distill]",)),
    "evaluate.window": Case(evaluated, "192"),
    "evaluate.stride": Case(evaluated, "64"),
    "evaluate.prefix": Case(evaluated, "eos"),
    "evaluate.dtype": Case(evaluated, "bf16"),
    "evaluate.max_mb": Case(evaluated, "0.0008"),
    "evaluate.samples": Case(evaluated, "1", given=("evaluate.sample_tokens=4",)),
    "evaluate.sample_tokens": Case(evaluated, "2", given=("evaluate.samples=1", "evaluate.sample_tokens=4")),
    "evaluate.texts[].name": Case(evaluated, "another", given=TEXT),
    "evaluate.texts[].path": Case(evaluated, "other.txt", given=TEXT),
    "evaluate.texts[].role": Case(evaluated, "new", given=TEXT),
    "evaluate.texts[].field": Case(evaluated, "body", given=TEXT),
    "export.licence": Case(card, "apache-2.0"),
}


def test_every_field_has_a_case():
    """A new field comes with the place where it can be seen, or not at all."""
    assert set(CASES) == {field.path for field in reference()}


def observe(world: World, case: Case, overrides: tuple[str, ...]) -> tuple[str, Any]:
    """What the case looks at, or the error that it ended in: an error is an effect too."""
    try:
        return "seen", case.look(world.house((*case.given, *overrides), case.fresh))
    except UserError as error:
        return "refused", str(error)


@pytest.mark.parametrize("field", CASES)
def test_changing_a_field_changes_the_plan_or_the_result(world, field):
    """An option that does nothing is worse than none: somebody sets it and believes it."""
    case = CASES[field]
    path = field.replace("[]", "[0]")
    other = f"{path}={case.other}" if field != "model.gguf" else f"model={{gguf: {case.other}}}"
    before, after = observe(world, case, ()), observe(world, case, (other,))
    assert before[0] == "seen", before
    assert after != before
    assert after[0] == "seen" or (case.refusal and case.refusal in after[1]), after


@pytest.mark.parametrize("look", dict.fromkeys(case.look for case in CASES.values()), ids=lambda look: look.__name__)
def test_without_a_change_nothing_changes(tmp_path, look):
    """Otherwise the test above would see chance. Two worlds, two run folders, everything computed twice."""
    seen = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        seen.append(look(World(tmp_path / name).house(("vocab.extend=true",))))
    assert seen[0] == seen[1]


WEIGHTLESS = [
    *(f"train.{name}" for name in sorted(rooms.CADENCE)), "mixture.max_epochs.new", "mixture.max_epochs.replay",
    *(field for field in CASES if field.startswith(("evaluate.", "export."))), "keep.mixback", "keep.distill.weight", "name",
]  # fmt: skip


@pytest.mark.parametrize("field", WEIGHTLESS)
def test_what_moves_no_weight_does_not_train_again(world, field):
    """Hours of training are not thrown away for another warning, window or licence; a resumed run may log or save more often."""
    case = CASES[field]
    given = (*(case.given if field.startswith("evaluate.") else ()), f"{field.replace('[]', '[0]')}={case.other}")
    Way.of(world.house(())).train()
    assert Way.of(world.house(given)).train().reused
