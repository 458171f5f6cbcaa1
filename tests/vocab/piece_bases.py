"""Small bases without merges, trained here: T5 and XLM-R type (Unigram), BERT cased and uncased (WordPiece), and models to go with them."""

from __future__ import annotations

import base64
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rewarm.vocab.sp_model import parse_sp_model

KINDS = ("t5", "xlmr", "bert", "uncased")
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@cache
def _unigram(lines: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=260, model_type="unigram", hard_vocab_limit=False, num_threads=1,
        normalization_rule_name="nmt_nfkc", character_coverage=1.0, minloglevel=2, **dict(options),
    )  # fmt: skip
    return out.getvalue()


def t5_files(lines: list[str]) -> dict[str, bytes]:
    """T5 type: pad, end, unk, pieces, then ten sentinels that the `.model` does not have."""
    settings = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    raw = _unigram(tuple(lines), tuple(settings.items()))
    model = parse_sp_model(raw)
    sentinels = [f"<extra_id_{i}>" for i in range(9, -1, -1)]
    vocab = [[p.text, p.score] for p in model.pieces] + [[s, 0.0] for s in sentinels]
    special = [p.text for p in model.pieces[:3]] + sentinels
    spec = _unigram_spec(model.charsmap, vocab, 2, special, "<eos>")
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 10, "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
              "additional_special_tokens": sentinels}  # fmt: skip
    return {"tokenizer.json": _json(spec), "spiece.model": raw, "tokenizer_config.json": _json(config)}


def xlmr_files(lines: list[str]) -> dict[str, bytes]:
    """XLM-R type: control tokens of its own in front, so ids are one above those of the `.model`, and a mask behind."""
    raw = _unigram(tuple(lines), ())
    model = parse_sp_model(raw)
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [[t, 0.0] for t in front] + [[p.text, p.score] for p in model.pieces[3:]] + [["<mask>", 0.0]]
    spec = _unigram_spec(model.charsmap, vocab, 3, [*front, "<mask>"], "<s>")
    spec["added_tokens"][-1]["lstrip"] = True
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "cls": "<s>", "pad": "<pad>"}
    mask = {"content": "<mask>", "__type": "AddedToken", **_FLAGS, "lstrip": True}
    config = {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": mask, **{f"{k}_token": v for k, v in names.items()}}
    return {"tokenizer.json": _json(spec), "sentencepiece.bpe.model": raw, "tokenizer_config.json": _json(config)}


def _unigram_spec(charsmap: bytes, vocab: list[list[Any]], unk: int, special: list[str], first: str) -> dict[str, Any]:
    ids = {text: i for i, (text, _) in enumerate(vocab)}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    normalizer = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[t], "content": t, **_FLAGS} for t in sorted(special, key=ids.__getitem__)],
        "normalizer": normalizer, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": None, "decoder": space,
        "model": {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": False},
    }  # fmt: skip


def bert_files(lines: list[str], lowercase: bool, old_only: bool = False) -> dict[str, bytes]:
    """BERT type: tokenizer.json and vocab.txt, or (`old_only`) the latter alone."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw, vocab = _wordpiece(tuple(lines), tuple(special), lowercase)
    files = {"vocab.txt": "".join(f"{p}\n" for p in sorted(vocab, key=vocab.__getitem__)).encode()}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "tokenize_chinese_chars": True, "strip_accents": None,
              **{f"{s.strip('[]').lower()}_token": s for s in special}}  # fmt: skip
    files["tokenizer_config.json"] = _json(config)
    return files if old_only else files | {"tokenizer.json": raw}


@cache
def _wordpiece(lines: tuple[str, ...], special: tuple[str, ...], lowercase: bool) -> tuple[bytes, dict[str, int]]:
    """tokenizer.json and its vocabulary; kept, as the library's training gives other ids every time."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=200, special_tokens=list(special), show_progress=False))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str(pretty=True).encode(), tokenizer.get_vocab()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=2).encode()


def write_piece_base(folder: Path, kind: str, lines: list[str], model: bool = True) -> Path:
    """A folder with this kind's tokenizer and a random model of width 32 of the class that such a tokenizer usually has."""
    folder.mkdir(parents=True)
    files = {
        "t5": lambda: t5_files(lines), "xlmr": lambda: xlmr_files(lines), "bert": lambda: bert_files(lines, False),
        "uncased": lambda: bert_files(lines, True),
    }[kind]()  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if model:
        spec = json.loads((folder / "tokenizer.json").read_text())
        _write_model(folder, kind, len(spec["model"]["vocab"]))
    return folder


def _write_model(folder: Path, kind: str, rows: int) -> None:
    import torch
    import transformers
    from safetensors.torch import save_model

    torch.manual_seed(1)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 66}
    config: Any
    if kind == "t5":  # 32,128 rows for 32,100 ids: spare ones, as in the real one
        config = transformers.T5Config(
            vocab_size=rows + 28, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2, tie_word_embeddings=True,
            decoder_start_token_id=0, architectures=["T5ForConditionalGeneration"],
        )  # fmt: skip
        model: Any = transformers.T5ForConditionalGeneration(config)
    elif kind == "xlmr":
        config = transformers.XLMRobertaConfig(
            vocab_size=rows, type_vocab_size=1, pad_token_id=1, **small, architectures=["XLMRobertaForMaskedLM"]
        )
        model = transformers.XLMRobertaForMaskedLM(config)
    else:
        config = transformers.BertConfig(vocab_size=rows, **small, architectures=["BertForMaskedLM"])
        model = transformers.BertForMaskedLM(config)
    torch.nn.init.normal_(_bias(model, rows)) if kind != "t5" else None
    (folder / "config.json").write_text(config.to_json_string())
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _bias(model: Any, rows: int) -> Any:
    """The output bias: random, so that a test sees whether its rows are carried over."""
    return next(p for name, p in model.named_parameters() if name.endswith("bias") and tuple(p.shape) == (rows,))
