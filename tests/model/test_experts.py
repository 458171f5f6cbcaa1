"""Mixtures of experts: the balance loss is the family's, padding has no part in it, and nothing of it is left behind."""

from __future__ import annotations

import pytest
import torch

from rewarm.model.attention import stock_attention
from rewarm.model.batch import IGNORE, micro_batches, one_row
from rewarm.model.experts import compiled_parts, has_experts
from rewarm.model.family import family_of
from rewarm.model.load import load_base, save_hf

BALANCED = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe"]


def router_gradients(loss):
    found = {name: p.grad.clone() for name, p in loss.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    loss.zero_grad()
    return found


@pytest.mark.parametrize("form", ["rows", "flat"])
@pytest.mark.parametrize("kind", BALANCED)
def test_the_balance_loss_is_the_one_of_transformers_once_a_label(tiny, row_batch, kind, form):
    """The oracle is the model's own `aux_loss`, its value and its gradients; a document of 16 tokens has 15 labels."""
    loss = tiny(kind)
    batch = micro_batches(row_batch([[16]]), 1, "cpu", form)[0]
    with stock_attention(loss.hf):
        own = loss.hf(input_ids=batch.ids, use_cache=False, output_router_logits=True).aux_loss * loss.hf.router_aux_loss_coef
    own.backward()
    wanted = router_gradients(loss)
    out = loss(batch)
    torch.testing.assert_close(out.aux, own * 15)
    assert out.total == out.loss_sum + out.aux
    (out.aux / 15).backward()
    found = router_gradients(loss)
    assert found.keys() == wanted.keys() and any(".gate" in name or "router" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-7)


def test_the_whole_loss_is_what_transformers_trains_on(tiny, row_batch):
    """Cross-entropy and balance together, as `labels=` with `output_router_logits=True` would make them."""
    loss = tiny("qwen3_moe")
    batch = micro_batches(row_batch([[16]]), 1, "cpu", "rows")[0]
    with stock_attention(loss.hf):
        own = loss.hf(input_ids=batch.ids, labels=batch.ids, use_cache=False, output_router_logits=True).loss
    torch.testing.assert_close(loss(batch).total / 15, own)


@pytest.mark.parametrize("form", ["rows", "flat"])
def test_padding_has_no_part_in_the_balance(tiny, row_batch, form):
    """A last micro-batch filled up with rows of zeros would else be taken for a text of one word, and experts be told to avoid it."""
    loss = tiny("olmoe")
    rows = row_batch([[16]])
    alone = loss(micro_batches(rows, 1, "cpu", form)[0]).aux
    filled = loss(micro_batches(rows, 3, "cpu", form)[0]).aux
    torch.testing.assert_close(filled, alone)


def test_a_micro_batch_without_labels_adds_nothing(tiny, row_batch):
    """0 labels of 0 tokens must be 0, not 0/0: one such batch would make every gradient of its step not a number."""
    loss = tiny("olmoe")
    rows = row_batch([[16]])
    rows.labels[:] = IGNORE
    out = loss(micro_batches(rows, 1, "cpu", "rows")[0])
    assert out.aux == 0 and out.total == 0
    out.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())


def test_dense_models_and_those_that_balance_without_a_loss_have_none(tiny):
    """DeepSeek-V3 shifts the router's bias instead; a coefficient of 0 switches the loss off."""
    row = one_row([[5, 6, 7, 8]])
    for loss in (tiny("llama"), tiny("deepseek_v3"), tiny("olmoe", router_aux_loss_coef=0.0)):
        assert loss.balance is None and loss(row).aux is None
    assert family_of(tiny("deepseek_v3").hf).experts and family_of(tiny("olmoe").hf).experts


def test_listening_leaves_no_hook_behind(tiny):
    """Also when the forward pass fails: hooks that pile up would note every pass of an evaluation and keep its memory."""
    loss = tiny("mixtral")
    row = one_row([[5, 6, 7, 8]])
    loss(row)
    with pytest.raises(RuntimeError), loss.balance.listening():
        raise RuntimeError
    assert not any(module._forward_hooks for module in loss.modules())


def test_a_configuration_that_asks_for_router_logits_changes_nothing(tiny):
    """Some published bases have `output_router_logits: true`."""
    row = one_row([[5, 6, 7, 8]])
    assert tiny("mixtral", output_router_logits=True)(row).total == tiny("mixtral")(row).total


def test_a_layer_with_experts_is_compiled_but_for_its_experts(tiny):
    """No kernel of the experts compiles as one graph; attention and norms, half of the small operations, do."""
    mixed = family_of(tiny("mixtral").hf).layers[0]
    parts = compiled_parts(mixed)
    assert mixed.self_attn in parts and len(parts) == 3 and not any(has_experts(part) for part in parts)
    dense = family_of(tiny("llama").hf).layers[0]
    assert compiled_parts(dense) == [dense]
    first, second = family_of(tiny("deepseek_v3").hf).layers
    assert compiled_parts(first) == [first] and second.self_attn in compiled_parts(second)


def test_noise_in_the_routers_is_off_in_training(tmp_path, tiny_model):
    """Packed = alone, resume and the gates need a forward pass without dice; the folder keeps the base's value."""
    import json

    tiny_model("mixtral").save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "router_jitter_noise": 0.3}))
    model = load_base(tmp_path / "base").model
    assert model.model.layers[0].mlp.jitter_noise == 0.0
    save_hf(model, tmp_path / "base", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["router_jitter_noise"] == 0.3
