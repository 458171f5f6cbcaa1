"""A GGUF file becomes a plain Hugging Face folder: its weights, its words split as it says, nothing left of the reader."""

from __future__ import annotations

import itertools
import json
import stat

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rewarm.errors import UserError
from rewarm.model.gguf_base import convert_gguf, read_header
from rewarm.model.gguf_tokenizer import build_tokenizer, table
from rewarm.progress import Silent

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["1 2", "Ġ t", "Ġt h", "Ġth e", "Ä ĳ", "Ġ Äĳ", "á »", "á» ĩ", "12 3", "' s"]
LINES = [
    "the 12 and 123, it's 2015",
    "Điều 12. người nào vi phạm hệ thống bị phạt 100.000 đồng",
    "  two  blanks\tand\n\nlines 1234567890",
    "你好 안녕하세요 こんにちは ½ ٣ 👋🏽",
    "a<|im_end|>b",
    "e\u0323\u0302 NFD",
]


def tokens() -> list[str]:
    return SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]


def metadata(pre: str | None = "smollm", **more: object) -> dict[str, object]:
    """What read_header gives for the tokenizer of the tiny file."""
    out: dict[str, object] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens(),
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens()) - len(SPECIALS)),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    if pre is not None:
        out["tokenizer.ggml.pre"] = pre
    return {**out, **more}


def tiny(rows: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 1e5}
    config = LlamaConfig(
        vocab_size=rows, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=rope, **sizes
    )
    return LlamaForCausalLM(config).eval()


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp keeps the two halves of a rotary pair side by side; Hugging Face keeps them half a head apart."""
    out, width = weight.shape
    return weight.reshape(heads, 2, out // heads // 2, width).swapaxes(1, 2).reshape(out, width)


def write_gguf(path, model, kind="F32", pre="smollm", extra_tensor=None, change=None) -> None:
    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny model")
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(1e5)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens())
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens()) - len(SPECIALS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    if change:
        change(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    quant = getattr(gguf.GGMLQuantizationType, kind)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        array = tensor.numpy()
        if "q_proj" in name:
            array = permute(array, c.num_attention_heads)
        if "k_proj" in name:
            array = permute(array, c.num_key_value_heads)
        target = names.get_name(name, try_suffixes=(".weight",))
        if kind != "F32" and array.ndim == 2:
            writer.add_tensor(target, gguf.quants.quantize(array, quant), raw_dtype=quant)
        else:
            writer.add_tensor(target, np.ascontiguousarray(array))
    if extra_tensor:
        writer.add_tensor(extra_tensor, np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(GGUF file, original model, folder, record) of the tiny model in F32."""
    folder = tmp_path_factory.mktemp("gguf")
    model = tiny(len(tokens()))
    write_gguf(folder / "tiny.gguf", model)
    record = convert_gguf(folder / "tiny.gguf", folder / "base", Silent())
    return folder / "tiny.gguf", model, folder / "base", record


def test_the_weights_are_the_files_weights_in_bf16(converted):
    """An F32 file loses nothing but the bits that bf16 has not; rotary halves are where Hugging Face has them; the head is tied."""
    _, model, folder, record = converted
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert again.dtype == torch.bfloat16 and again.lm_head.weight is again.model.embed_tokens.weight
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor.to(torch.bfloat16)), name
    rounded = tiny(len(tokens()))
    for parameter in rounded.parameters():
        parameter.data = parameter.to(torch.bfloat16).float()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits, rounded(ids).logits)
    assert record["stored_as"] == {"F32": 20} and record["tied"] and record["rows"] == len(tokens())


def test_a_quantised_file_gives_its_own_values(tmp_path):
    """What a Q8_0 block stands for is defined by the gguf package; nothing is quantised in the folder."""
    model = tiny(len(tokens()))
    write_gguf(tmp_path / "q.gguf", model, kind="Q8_0")
    convert_gguf(tmp_path / "q.gguf", tmp_path / "base", Silent())
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    packed = gguf.quants.quantize(model.state_dict()[name].numpy(), gguf.GGMLQuantizationType.Q8_0)
    plain = torch.from_numpy(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))
    assert torch.equal(state[name], plain.to(torch.bfloat16))
    assert not torch.equal(state[name], model.state_dict()[name].to(torch.bfloat16))
    assert "quantization_config" not in json.loads((tmp_path / "base" / "config.json").read_text())


def test_the_folder_tells_nothing_of_the_reader(converted):
    """A name out of the GGUF header in `_name_or_path` makes later tools look for a model of that name on the hub."""
    _, _, folder, _ = converted
    config = json.loads((folder / "config.json").read_text())
    assert not {"_name_or_path", "_model_name_or_path", "quantization_config", "unk_token_id"} & set(config)
    assert config["architectures"] == ["LlamaForCausalLM"] and config["dtype"] == "bfloat16"
    assert config["rms_norm_eps"] == 1e-5  # not 9.999999747378752e-06
    assert config["rope_parameters"]["rope_theta"] == 1e5
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "gguf.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert stat.S_IMODE((folder / "model.safetensors").stat().st_mode) == stat.S_IMODE((folder / "config.json").stat().st_mode)
    assert not list(folder.parent.glob("*.tmp-*"))


def test_all_ends_and_the_chat_template_arrive(converted):
    """SmolLM2 ends chats with <|im_end|> and documents with <|endoftext|>: a chat that knows one of them runs on."""
    _, _, folder, record = converted
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0] == record["ends"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (folder / "chat_template.jinja").read_text() and settings["model_max_length"] == 128
    assert settings["eos_token"] == "<|im_end|>" and settings["bos_token"] == "<|im_start|>" and settings["unk_token"] == "<|endoftext|>"
    words = AutoTokenizer.from_pretrained(folder)
    assert words.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def reference_ids(line: str, digits: bool) -> list[int]:
    """Byte-level BPE by its definition: special tokens, single digits, GPT-2's pattern, then the merge of the lowest rank, left first."""
    import regex

    vocab = {token: i for i, token in enumerate(tokens())}
    spell = dict(zip(range(256), _byte_letters()))
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(MERGES)}
    pattern = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    ids = []
    for part in regex.split("(" + "|".join(map(regex.escape, SPECIALS)) + ")", line):
        if part in SPECIALS:
            ids.append(vocab[part])
            continue
        runs = [run for run in regex.split(r"(\p{N})", part) if run] if digits else [part]
        for word in (match for run in runs for match in pattern.findall(run)):
            parts = [spell[b] for b in word.encode()]
            while pairs := [(ranks[p], i) for i, p in enumerate(itertools.pairwise(parts)) if p in ranks]:
                _, i = min(pairs)
                parts[i : i + 2] = ["".join(parts[i : i + 2])]
            ids += [vocab[p] for p in parts]
    return ids


def _byte_letters() -> list[str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def test_digits_stand_alone_as_the_file_says(converted):
    """transformers' own reader loses this rule for `smollm`, and an extension of such a tokenizer learns whole numbers."""
    _, _, folder, _ = converted
    alone, words = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    for line in LINES:
        assert alone.encode(line).ids == reference_ids(line, digits=True) == words(line)["input_ids"], line
        assert words.decode(words(line)["input_ids"]) == line
    whole = tokens().index("123")
    assert whole not in alone.encode("123").ids
    assert whole in build_tokenizer(metadata("gpt-2"), "x").tokenizer.encode("123").ids


def test_gpt2_splits_as_its_pattern_says():
    """The other side of the digit rule: without it the same reference must agree too."""
    made = build_tokenizer(metadata("gpt-2"), "x").tokenizer
    for line in LINES:
        assert made.encode(line).ids == reference_ids(line, digits=False), line


def test_every_split_of_the_table_compiles_and_gives_text_back():
    """A pattern with a typing error would show only when somebody brings such a file."""
    for pre, rule in table()["pre"].items():
        made = build_tokenizer(metadata(pre), "x").tokenizer
        for line in LINES[:-1]:
            assert made.decode(made.encode(line, add_special_tokens=False).ids, skip_special_tokens=False) == line, (pre, line)
        assert (made.encode("e\u0301").ids == made.encode("é").ids) == (rule.get("normalizer") == "NFC"), pre


def test_the_begin_token_follows_the_file_then_the_split():
    """Llama-3 files often leave the flag out, and the runtime adds the token; a flag that is there decides."""
    assert build_tokenizer(metadata("llama-bpe"), "x").tokenizer.encode("a").ids[0] == 1
    off = metadata("llama-bpe", **{"tokenizer.ggml.add_bos_token": False})
    assert build_tokenizer(off, "x").tokenizer.encode("a").ids[0] != 1
    both = metadata("smollm", **{"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True})
    made = build_tokenizer(both, "x").tokenizer
    assert [made.encode("a").ids[i] for i in (0, -1)] == [1, 2]
    assert made.encode("a", "b").tokens == ["<|im_start|>", "a", "<|im_end|>", "<|im_start|>", "b", "<|im_end|>"]


def test_unused_tokens_are_rows_and_no_words():
    """Padding rows have names in a GGUF file; as words they would be ids that no text can reach."""
    padded = metadata()
    padded["tokenizer.ggml.tokens"] = [*tokens(), "[PAD270]", "[PAD271]"]
    padded["tokenizer.ggml.token_type"] = [*metadata()["tokenizer.ggml.token_type"], 5, 5]
    assert build_tokenizer(padded, "x").tokenizer.get_vocab_size() == len(tokens())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tokenizer.ggml.pre": "smollmm"}, "`smollmm`"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is missing"),
        ({"tokenizer.ggml.model": "llama"}, "`llama`"),
        ({"tokenizer.ggml.merges": ["x yy"]}, "merge 0 (`x yy`)"),
        ({"tokenizer.ggml.merges": []}, "merges is missing"),
        ({"tokenizer.ggml.eos_token_id": 99_999}, "eos_token_id is 99999"),
    ],
)
def test_a_tokenizer_that_cannot_be_known_is_refused_by_name(change, told):
    """A guess would change words unseen."""
    with pytest.raises(UserError) as error:
        build_tokenizer(metadata(**change), "file.gguf")
    assert told in error.value.render() and error.value.where == "file.gguf"
    if "smollmm" in told:
        assert "did you mean `smollm`?" in error.value.render()


def test_bad_files_are_told_before_anything_is_written(tmp_path):
    """Missing, cut off, split, with rotary scaling: each says what it is."""
    model = tiny(len(tokens()))
    write_gguf(tmp_path / "whole.gguf", model)
    whole = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.gguf").write_text("not a model")
    write_gguf(tmp_path / "split.gguf", model, change=lambda writer: writer.add_uint16("split.count", 2))
    write_gguf(tmp_path / "scaled.gguf", model, extra_tensor="rope_freqs.weight")
    write_gguf(tmp_path / "pre.gguf", model, pre="nobody")
    told = {
        "none": "no such file",
        "cut": "not a whole",
        "text": "not a whole",
        "split": "part of a split",
        "scaled": "rotary",
        "pre": "`nobody`",
    }
    for name, text in told.items():
        with pytest.raises(UserError) as error:
            convert_gguf(tmp_path / f"{name}.gguf", tmp_path / "base", Silent())
        assert text in error.value.render(), name
        assert not (tmp_path / "base").exists() and not list(tmp_path.glob("base.tmp*"))
    assert read_header(tmp_path / "whole.gguf")[1] == {"F32": 20}


def test_a_second_call_reads_the_record_and_another_file_is_refused(converted, tmp_path):
    """A stage that runs again must not do the work again, nor take a folder of other origin for its own."""
    file, model, folder, record = converted
    before = (folder / "model.safetensors").stat().st_mtime_ns
    said = Silent()
    assert convert_gguf(file, folder, said) == record and not said.lines
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    write_gguf(tmp_path / "other.gguf", model, pre="gpt-2")
    with pytest.raises(UserError, match="not made from this"):
        convert_gguf(tmp_path / "other.gguf", folder, said)


def test_the_same_file_gives_the_same_bytes(converted, tmp_path):
    """Stage folders are compared by content."""
    file, _, folder, _ = converted
    convert_gguf(file, tmp_path / "again", Silent())
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
