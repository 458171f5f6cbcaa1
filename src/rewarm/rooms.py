"""Each stage of a run with what it needs from its neighbours handed in: the only place that knows how the rooms fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rewarm.atomic import read_json, write_json
from rewarm.corpus.read_back import Corpus
from rewarm.errors import UserError
from rewarm.evaluate.documents import TextRef
from rewarm.planning import lengths, replay_share
from rewarm.progress import Reporter
from rewarm.recipe import Recipe
from rewarm.stages import Done, RunFolder, content_hash

CADENCE = {"log_every", "keep_last", "checkpoint_steps", "checkpoint_minutes", "max_hours", "micro_rows", "compile"}
"""Fields of `train` that change when things happen, not what is computed: changing one goes on with the same run."""


@dataclass(frozen=True)
class House:
    """What the stages of one run share. Relative paths of the recipe start from `root`."""

    recipe: Recipe
    root: Path
    run: RunFolder
    reporter: Reporter

    def path(self, text: str) -> Path:
        path = Path(text).expanduser()
        return path if path.is_absolute() else self.root / path

    @property
    def hashes(self) -> Path:
        return self.run.folder / "hashes.json"


@dataclass(frozen=True)
class ModelAt:
    """A model's folder and the fingerprint of what made it. `new_rows` (first, past the last) train at a rate of their own."""

    folder: Path
    fingerprint: str
    new_rows: tuple[int, int] | None = None
    true_vocab: int | None = None


def base_stage(house: House) -> ModelAt:
    """The base as a Hugging Face folder: a GGUF file is converted once, a folder is used where it lies, a hub name is downloaded."""
    model = house.recipe.model
    if model.gguf is not None:
        from rewarm.model.gguf_base import convert_gguf

        file = house.path(model.gguf)
        if not file.is_file():
            raise UserError("no such file", where=f"model.gguf: {file}", fix="give the path of a .gguf file")
        done = house.run.stage(
            "base", {"gguf": file.name}, {"file": content_hash([file], house.hashes)},
            lambda out: convert_gguf(file, out / "model", house.reporter), label="base model from GGUF",
        )  # fmt: skip
        return ModelAt(done.folder / "model", done.fingerprint)
    folder, _ = checked_base(house.recipe, house.root)
    from rewarm.model.load import read_config

    read_config(folder)  # after what is cheaper to look at: it loads transformers
    kept = [p for p in folder.iterdir() if p.suffix in (".json", ".safetensors", ".model", ".txt", ".jinja") and p.is_file()]
    return ModelAt(folder, content_hash(kept, house.hashes))


def checked_base(recipe: Recipe, root: Path) -> tuple[Path, dict[str, Any]]:
    """(folder of `model.base`, its config.json). UserError for whatever would stop the run at this base hours later."""
    from rewarm.model.files import check_folder, find_folder
    from rewarm.vocab.base import open_base

    assert recipe.model.base is not None
    local = root / Path(recipe.model.base).expanduser()
    folder = find_folder(local if local.exists() else recipe.model.base)
    config = check_folder(folder)
    if recipe.vocab.extend is not False:
        open_base(folder)
    return folder, config


def corpus_stage(house: House) -> Done:
    from rewarm.corpus.plan import source_files
    from rewarm.corpus.stage import corpus_stage as work

    cfg = house.recipe.corpus
    inputs = {}
    for i, source in enumerate(cfg.sources):
        files = source_files(source, house.root, f"corpus.sources[{i}]")
        names = "\n".join(file.name for file in files)
        inputs[source.name] = content_hash([file.path for file in files], house.hashes) + hashlib.sha256(names.encode()).hexdigest()[:8]
    return house.run.stage("corpus", cfg.model_dump(), inputs, lambda out: work(cfg, house.root, out, house.reporter), label="corpus")


SMALL_TEXT = 4_000_000
"""Bytes of new text below which its tokens are counted before anything else is done: too little text should be said at once."""


def little_text(house: House) -> bool:
    """Whether the new text's files are so small that their tokens will be counted before anything else is done."""
    from rewarm.corpus.plan import source_files

    new = [(i, source) for i, source in enumerate(house.recipe.corpus.sources) if source.role == "new"]
    return sum(file.bytes for i, source in new for file in source_files(source, house.root, f"corpus.sources[{i}]")) <= SMALL_TEXT


def check_text(house: House, base: ModelAt, corpus: Corpus) -> None:
    """Stops before the vocabulary if the new text is too little for one step even in the base's (longer) tokens."""
    from rewarm.tokens.enough import check_enough

    recipe = house.recipe
    new = [s for s in corpus.sources if s.role == "new"]
    if sum(s.bytes for s in new) > SMALL_TEXT or length_is_set(recipe):
        return
    tokens = count_tokens(base.folder, [file for s in new for file in s.files])
    replay, _ = replay_of(recipe, corpus)
    plan = lengths(recipe.train, recipe.tokens, tokens, replay, device_of(recipe))
    row = recipe.tokens.row_tokens
    table = [{"name": "new", "role": "new", "tokens": tokens, "rows": -(-tokens // row)}]
    check_enough(table, plan.batch_rows, row, plan.steps or 1, replay=replay)


def length_is_set(recipe: Recipe) -> bool:
    """Whether the user said how long to train, and so wants little text repeated."""
    return recipe.train.tokens != "auto" or recipe.train.max_minutes is not None


def count_tokens(model_dir: Path, files: list[Path]) -> int:
    """Tokens of these clean files under a model's tokenizer, one end token a document included."""
    import pyarrow.parquet as pq

    from rewarm.vocab.encoder import open_encoder

    encoder = open_encoder(model_dir / "tokenizer.json", [], prefer=("tokenizers",))
    total = 0
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(512, columns=["text"]):
            total += sum(len(ids) + 1 for ids in encoder.encode_batch(batch.column(0).to_pylist()))
    return total


def vocab_stage(house: House, base: ModelAt, corpus_done: Done, corpus: Corpus) -> tuple[Done | None, ModelAt]:
    """The extended model, or the base itself where nothing is extended."""
    cfg = house.recipe.vocab
    if cfg.extend is False:
        house.reporter.say("vocab: not extended (vocab.extend: false)")
        return None, base
    from rewarm.vocab.stage import vocab_stage as work

    targets: dict[str, list[Path]] = {}
    for source in corpus.sources:
        if source.role == "new":
            targets.setdefault("+".join(source.languages) or source.name, []).extend(source.files)
    protect = [f for s in corpus.sources if s.role == "replay" for f in s.files]
    heldout = {s.name: s.heldout for s in corpus.sources if s.heldout is not None}
    planned = house.recipe.train.tokens if isinstance(house.recipe.train.tokens, int) else None
    parallel = {name: house.path(file) for name, file in cfg.parallel.items()}
    found = content_hash([file for file in parallel.values() if file.is_file()], house.hashes)
    inputs = {"base": base.fingerprint, "corpus": corpus_done.fingerprint, **({"parallel": found} if parallel else {})}
    here = cfg.model_copy(update={"parallel": {name: str(file) for name, file in parallel.items()}})
    done = house.run.stage(
        "vocab", {**cfg.model_dump(), "planned_tokens": planned}, inputs,
        lambda out: work(here, base.folder, targets, protect, heldout, planned, out, house.reporter), label="vocabulary",
    )  # fmt: skip
    if not done.facts["extended"]:
        return done, base
    first, true = done.facts["first_new_id"], done.facts["true_vocab"]
    return done, ModelAt(done.folder / "model", done.fingerprint, (first, true), true)


def check_rope(house: House, base: ModelAt) -> None:
    """Stops before the corpus is read if this base cannot have the context that `model.rope` asks for."""
    if house.recipe.model.rope is not None:
        from rewarm.model.rope import check_rope as work

        work(base.folder, house.recipe.model.rope)


def rope_stage(house: House, start: ModelAt) -> ModelAt:
    """The model that training starts from, with the positions of `model.rope`; as it is without one."""
    rope = house.recipe.model.rope
    if rope is None:
        return start
    from rewarm.model.rope import write_longer

    done = house.run.stage(
        "rope", rope.model_dump(), {"model": start.fingerprint},
        lambda out: write_longer(start.folder, rope, out / "model"), label="longer context",
    )  # fmt: skip
    return replace(start, folder=done.folder / "model", fingerprint=done.fingerprint)


def rows_stage(house: House, start: ModelAt, corpus_done: Done, corpus: Corpus) -> tuple[Done, Done]:
    """(token shards, row tables)."""
    from rewarm.tokens import stage

    cfg = house.recipe.tokens
    sources = [stage.TokenSource(s.name, s.role, s.files) for s in corpus.sources]
    tokens = house.run.stage(
        "tokens", {"eos": cfg.eos}, {"model": start.fingerprint, "corpus": corpus_done.fingerprint},
        lambda out: stage.tokenize_stage(cfg, start.folder, sources, out, house.reporter), label="tokens",
    )  # fmt: skip
    rows = house.run.stage(
        "rows", cfg.model_dump(exclude={"eos"}), {"tokens": tokens.fingerprint},
        lambda out: stage.rows_stage(cfg, tokens.folder, out, house.reporter), label="rows",
    )  # fmt: skip
    return tokens, rows


@dataclass(frozen=True)
class Feed:
    """What training reads: the mixture, its replay share and why, and the number of steps (None: `max_minutes` will say)."""

    mixture: Any
    replay: float
    why: str
    steps: int | None


def device_of(recipe: Recipe) -> str:
    """`cpu` or `cuda`: what `train.device` comes to here. UserError if a GPU is asked for and there is none."""
    if recipe.train.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if recipe.train.device == "cuda":
        raise UserError(
            "torch sees no GPU here",
            where="train.device",
            fix="set train.device: auto or cpu, or install a CUDA build of torch; `rewarm doctor` shows what is there",
        )
    return "cpu"


def feed(house: House, tokens: Done, rows: Done, corpus: Corpus) -> Feed:
    """Opens the mixture and says what it will give; raises UserError where there is too little text for one step."""
    from rewarm.tokens.enough import check_enough
    from rewarm.tokens.mixture import open_mixture

    recipe = house.recipe
    table = read_json(rows.folder / "rows.json")
    replay, why = replay_of(recipe, corpus)
    new_tokens = sum(s["tokens"] for s in table["sources"] if s["role"] != "replay")
    plan = lengths(recipe.train, recipe.tokens, new_tokens, replay, device_of(recipe))
    repeats = check_enough(
        table["sources"], plan.batch_rows, recipe.tokens.row_tokens, plan.steps or 1, replay=replay, length_is_set=length_is_set(recipe)
    )
    if repeats:
        house.reporter.warn(repeats)
    mixture = open_mixture(tokens.folder, rows.folder, recipe.mixture, plan.batch_rows, recipe.train.seed, replay)
    return Feed(mixture, replay, why, plan.steps)


def replay_of(recipe: Recipe, corpus: Corpus) -> tuple[float, str]:
    new = [set(s.languages) for s in corpus.sources if s.role == "new"]
    old = [set(s.languages) for s in corpus.sources if s.role == "replay" and s.documents]
    return replay_share(recipe.mixture, new, old)


def train_stage(house: House, base: ModelAt, start: ModelAt, corpus_done: Done, corpus: Corpus, rows: Done, given: Feed) -> Done:
    from rewarm.tokens.loader import batch
    from rewarm.train.stage import train_stage as work

    recipe = house.recipe
    settings = {
        "train": recipe.train.model_dump(exclude=CADENCE), "mixture": recipe.mixture.model_dump(exclude={"max_epochs"}),
        "replay": given.replay, "batch_rows": given.mixture.batch_rows, "steps": given.steps,
    }  # fmt: skip
    inputs = {"model": start.fingerprint, "rows": rows.fingerprint, "corpus": corpus_done.fingerprint}

    def train(out: Path) -> dict[str, Any]:
        probes = probes_of(house, base, start, corpus, out)
        return work(
            recipe.train, start.folder, given.mixture, partial(batch, given.mixture), start.new_rows, start.true_vocab, probes,
            methods_of(recipe, base, given), out, house.reporter, steps=given.steps,
        )  # fmt: skip

    if recipe.keep.methods:
        settings["keep"] = {name: getattr(recipe.keep, name).model_dump() for name in recipe.keep.methods}
        inputs["base"] = base.fingerprint
    return house.run.stage("train", settings, inputs, train, label="train")


def methods_of(recipe: Recipe, base: ModelAt, given: Feed) -> list[Any]:
    """The methods of `keep.methods`, in order, each with its settings, the base and the numbers of the replay sources."""
    from rewarm.keep.methods import METHODS

    replay = [i for i, role in enumerate(given.mixture.roles) if role == "replay" and given.replay > 0]
    return [METHODS.get(name)(getattr(recipe.keep, name), base.folder, replay) for name in recipe.keep.methods]


def probes_of(
    house: House, base: ModelAt, start: ModelAt, corpus: Corpus, out: Path
) -> Callable[[Any], Mapping[str, Mapping[str, Any]]] | None:
    """Bits per byte of the live model on a little of each held-out text's control half; None where nothing is held out."""
    from rewarm.evaluate.probe import Probe

    texts = texts_of(corpus, "control")
    if not texts or house.recipe.train.probe_every == "off":
        return None
    device = device_of(house.recipe)
    return Probe(house.recipe.evaluate, base.folder, start.folder, texts, out / "scores", house.reporter, device=device)


def texts_of(corpus: Corpus, half: Literal["control", "verify"] | None) -> list[TextRef]:
    """One half (or all) of every source's held-out documents, where it has any."""
    refs = []
    for s in corpus.sources:
        if s.heldout is not None and s.heldout_documents:
            refs.append(TextRef(s.name, "old" if s.role == "replay" else "new", s.heldout, half))
    return refs


def measured_texts(house: House) -> list[TextRef]:
    """The files of `evaluate.texts`. UserError for one that is not there or takes a source's name: said before hours of training."""
    refs: list[TextRef] = []
    sources = {source.name for source in house.recipe.corpus.sources}
    for i, text in enumerate(house.recipe.evaluate.texts):
        path = house.path(text.path)
        if not path.is_file():
            raise UserError("no such file", where=f"evaluate.texts[{i}].path: {path}", fix="relative paths start from the recipe's folder")
        if text.name in sources or text.name in [ref.name for ref in refs]:
            raise UserError(f"the name `{text.name}` is taken", where=f"evaluate.texts[{i}].name", fix="give each text a name of its own")
        refs.append(TextRef(text.name, text.role, path, None, text.field))
    return refs


def mixback_stage(house: House, base: ModelAt, start: ModelAt, trained: Done, corpus_done: Done, corpus: Corpus) -> Done:
    """The trained weights mixed with those training began with, chosen on the control half of the held-out texts."""
    from rewarm.evaluate.stage import score_change
    from rewarm.keep.mixback import mixback_stage as work

    cfg = house.recipe.evaluate
    texts = texts_of(corpus, "control")

    def mix(out: Path) -> dict[str, Any]:
        def measure(folder: Path) -> dict[str, dict[str, Any]]:
            return score_change(cfg, base.folder, folder, texts, out / "scores", house.reporter, device=device_of(house.recipe))

        return work(house.recipe.keep, start.folder, trained.folder / "model", measure if texts else None, out, house.reporter)

    settings = {"mixback": house.recipe.keep.mixback, "evaluate": cfg.model_dump(exclude={"texts", "samples", "sample_tokens"})}
    inputs = {"train": trained.fingerprint, "start": start.fingerprint, "base": base.fingerprint, "corpus": corpus_done.fingerprint}
    return house.run.stage("mixback", settings, inputs, mix, label="mix back")


def _evaluated(cfg: Any, models: list[Any], texts: list[Any], out: Path, house: House) -> dict[str, Any]:
    from rewarm.evaluate.stage import evaluate_stage as work

    if not texts:
        house.reporter.warn("no text was held out, so nothing is measured: see corpus.heldout")
        write_json(out / "results.json", {"format": 1, "texts": {}, "warnings": []})
        return {"texts": 0}
    results = work(cfg, models, texts, out, house.reporter, device=device_of(house.recipe))
    return {"texts": len(results["texts"])}


def evaluate_stage(house: House, base: ModelAt, start: ModelAt, mixed: Done, corpus_done: Done, corpus: Corpus) -> Done:
    """Base, extended and final model on the half of the held-out texts that had no say in anything."""
    from rewarm.evaluate.stage import ModelRef

    cfg = house.recipe.evaluate
    models = [ModelRef("base", base.folder)]
    if start.folder != base.folder:
        models.append(ModelRef("extended", start.folder))
    models.append(ModelRef("after", mixed.folder / "model"))
    texts = texts_of(corpus, "verify")
    more = measured_texts(house)
    texts += more
    inputs = {"base": base.fingerprint, "start": start.fingerprint, "mixed": mixed.fingerprint, "corpus": corpus_done.fingerprint}
    inputs |= {f"text {text.name}": content_hash([text.path], house.hashes) for text in more}
    return house.run.stage("evaluate", cfg.model_dump(), inputs, lambda out: _evaluated(cfg, models, texts, out, house), label="evaluate")


PROMPTS = {"vi": "Điều 1. Phạm vi điều chỉnh", "zh": "人类的历史", "ja": "昔々", "ko": "옛날 옛적에", "en": "Once upon a time"}


def export_stage(
    house: House,
    base: ModelAt,
    corpus: Corpus,
    vocab_done: Done | None,
    train_done: Done,
    mixed: Done,
    evaluated: Done,
    results: dict[str, Any],
    notes: list[str],
) -> Done:
    """The final model as a folder for other programs, with its card."""
    from rewarm.export.stage import export_stage as work

    recipe = house.recipe
    new = [s for s in corpus.sources if s.role == "new"]
    language = next((x for s in new for x in s.languages if x in PROMPTS), "en")
    converted = read_json(base.folder / "gguf.json") if (base.folder / "gguf.json").is_file() else {}
    facts = {
        "name": recipe.name,
        "prompt": PROMPTS[language],
        "base": {
            "name": recipe.model.base or Path(recipe.model.gguf or "").stem,
            "licence": converted.get("licence"),
            "stored_as": converted.get("stored_as"),
            "languages": converted.get("languages") or [],
        },
        "sources": [
            {
                "name": s.name,
                "role": s.role,
                "languages": list(s.languages),
                "licence": s.licence,
                "documents": s.documents,
                "bytes": s.bytes,
            }
            for s in corpus.sources
        ],
        "texts": results["texts"],
        "training": {"tokens": train_done.facts["tokens"], "steps": train_done.facts["steps"], "seconds": train_done.facts["seconds"]},
        "vocabulary": vocab_done.facts if vocab_done and vocab_done.facts["extended"] else None,
        "mixback": mixed.facts["alpha"],
        "warnings": [],
    }
    inputs = {"mixed": mixed.fingerprint, "evaluated": evaluated.fingerprint, "train": train_done.fingerprint}
    settings = {**recipe.export.model_dump(), "name": recipe.name, "base": facts["base"], "notes": notes}
    return house.run.stage(
        "export", settings, inputs, lambda out: work(recipe.export, mixed.folder / "model", facts, out, house.reporter), label="export"
    )
