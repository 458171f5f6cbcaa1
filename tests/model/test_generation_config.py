"""generation_config.json goes through training as it came: settings that a library calls wrong cost no run, no end token is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from rewarm.errors import UserError
from rewarm.model.load import load_base, save_hf

WRONG_BUT_READ: dict[str, dict[str, Any]] = {
    "temperature without sampling": {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 0], "max_new_tokens": 64},
    "beams that are not used": {"num_beams": 1, "early_stopping": True, "length_penalty": 2.0, "eos_token_id": [2, 0]},
    "a temperature below 0": {"do_sample": True, "temperature": -1.0, "eos_token_id": [2, 0]},
    "scores nobody gets": {"return_dict_in_generate": False, "output_scores": True, "eos_token_id": [2, 0]},
    "padding by -1": {"pad_token_id": -1, "eos_token_id": [2, 0]},
    "a field of somebody's own": {"our_field": {"a": [1]}, "eos_token_id": [2, 0]},
    "an old version": {"transformers_version": "4.40.0", "_from_model_config": True, "eos_token_id": [2, 0]},
}
REFUSED = ['{"num_return_sequences": 3}', '{"max_new_tokens": 0}', '{"cache_implementation": "magic"}', '{"eos_token_id": [2, 0]', "[2, 0]"]


def folder_with(model: Any, folder: Path, text: str | None) -> Path:
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if text is not None:
        (folder / "generation_config.json").write_text(text)
    return folder


@pytest.mark.parametrize("said", WRONG_BUT_READ.values(), ids=WRONG_BUT_READ.keys())
def test_settings_that_a_library_finds_fault_with_are_kept_byte_by_byte(tmp_path, tiny_model, said):
    """Two saves, as with checkpoints: the second one reads what the first wrote."""
    text = json.dumps(said, indent=3)
    base = folder_with(tiny_model("llama"), tmp_path / "base", text)
    for source, out in (("base", "one"), ("one", "two")):
        loaded = load_base(tmp_path / source)
        assert loaded.model.generation_config.eos_token_id == [2, 0]
        save_hf(loaded.model, tmp_path / source, tmp_path / out)
        assert (tmp_path / out / "generation_config.json").read_text() == text
    assert base.is_dir() and AutoModelForCausalLM.from_pretrained(tmp_path / "two").generation_config.eos_token_id == [2, 0]


def test_a_library_that_refuses_to_save_bad_settings_gets_none_to_save(tmp_path, tiny_model, monkeypatch):
    """Versions from 4.37 on raised at this point, after hours of training; the next one may again."""
    text = json.dumps(WRONG_BUT_READ["temperature without sampling"])
    base = folder_with(tiny_model("llama"), tmp_path / "base", text)
    loaded, save = load_base(base), GenerationConfig.save_pretrained

    def strict(self: GenerationConfig, *args: Any, **settings: Any) -> None:
        if not self.do_sample and self.temperature not in (None, 1.0):
            raise ValueError("`temperature` is set but `do_sample` is not")
        save(self, *args, **settings)

    monkeypatch.setattr(GenerationConfig, "save_pretrained", strict)
    save_hf(loaded.model, base, tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").read_text() == text


@pytest.mark.parametrize("text", REFUSED)
def test_settings_that_nothing_could_load_are_refused_before_training(tmp_path, tiny_model, text):
    """The result would carry the file, and plain transformers would not load it: said at the start, with the file's name."""
    base = folder_with(tiny_model("llama"), tmp_path / "base", text)
    with pytest.raises(UserError) as error:
        load_base(base)
    assert error.value.where == str(base / "generation_config.json")


def test_without_the_file_none_is_made_up(tmp_path, tiny_model):
    """The ends of the configuration hold, and the folder gets no file that the base did not have."""
    base = folder_with(tiny_model("llama", eos_token_id=[2, 0]), tmp_path / "base", None)
    loaded = load_base(base)
    assert loaded.model.generation_config.eos_token_id == [2, 0]
    save_hf(loaded.model, base, tmp_path / "out")
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_a_padding_id_of_minus_one_in_the_configuration_does_not_stop_a_save(tmp_path, tiny_model):
    """Old LLaMA conversions write it for "none"; transformers then refuses to save settings made of it."""
    base = folder_with(tiny_model("llama"), tmp_path / "base", None)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": -1}))
    loaded = load_base(base)
    save_hf(loaded.model, base, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == -1
