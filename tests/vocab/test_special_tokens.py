"""Control tokens: the only added tokens an extension makes, behind all others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rewarm.errors import UserError
from rewarm.vocab.base import open_base
from rewarm.vocab.fuzz import GateTexts
from rewarm.vocab.gate import check_tokenizer
from rewarm.vocab.recipe import VocabRecipe
from rewarm.vocab.stage import extend

pytestmark = pytest.mark.usefixtures("quick_gate")
SPECIAL = ("<|tool|>", "<|gọi hàm|>")


@pytest.mark.parametrize("kind", ["smollm", "llama3", "llama2"])
def test_control_tokens_get_the_last_ids_and_are_cut_out_first(
    kind: str, bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    """Text in front of and behind them must be cut as before; the model file of SentencePiece has them as control pieces."""
    cfg = VocabRecipe(size=40, special_tokens=SPECIAL)
    facts = extend(bases[kind], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", cfg)
    base, new = open_base(bases[kind]), open_base(tmp_path / "o" / "model")
    ids = [new.tokenizer.token_to_id(text) for text in SPECIAL]
    assert ids == [facts["true_vocab"] - 2, facts["true_vocab"] - 1] and facts["new_tokens"] == 40
    assert [t["special"] for t in new.added[-2:]] == [True, True] and new.added[:-2] == base.added
    found = new.tokenizer.encode("the law<|tool|><|gọi hàm|>", add_special_tokens=False)
    assert found.ids[-2:] == ids and new.tokenizer.decode(found.ids) == new.tokenizer.decode(found.ids[:-2])
    record = json.loads((tmp_path / "o" / "extension.json").read_text())
    assert [t["surface"] for t in record["tokens"][-2:]] == [{"str": text} for text in SPECIAL]
    rows = load_file(tmp_path / "o" / "model" / "model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(rows[ids[0]], rows[ids[1]])


def test_the_gate_takes_only_the_control_tokens_that_were_asked_for(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """An added token that nobody asked for is how other tools break old text."""
    extend(bases["gpt2"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", VocabRecipe(size=20, special_tokens=SPECIAL))
    for asked, broken in ((SPECIAL, set()), ((), {1}), (SPECIAL[:1], {1})):
        cfg = VocabRecipe(special_tokens=asked)
        findings = check_tokenizer(open_base(bases["gpt2"]), tmp_path / "o" / "model", GateTexts(["Điều 1"], ["the law"]), cfg)
        assert {f.number for f in findings if not f.ok} == broken


def test_a_control_token_that_the_base_has_is_refused(bases: dict[str, Path], texts: dict[str, Path], tmp_path: Path) -> None:
    """It would get a second id, or none."""
    cfg = VocabRecipe(size=20, special_tokens=("<|endoftext|>",))
    with pytest.raises(UserError, match="is a token of the base already"):
        extend(bases["gpt2"], {"vi": [texts["target"]]}, [texts["protect"]], tmp_path / "o", cfg)
