"""What must hold for every family: documents apart, packed = alone, our loss = the model's own, and what that costs in parameters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from rewarm.errors import MachineError, UserError
from rewarm.model.attention import stock_attention
from rewarm.model.batch import IGNORE, micro_batches, one_row, pick_rows
from rewarm.model.family import family_of
from rewarm.model.gates import attention_check, isolation_check, parity_check, run_gates
from rewarm.model.loss import CausalLMLoss

DENSE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "cohere", "granite", "olmo2"]
DENSE += ["phi3", "smollm3"]
EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "deepseek_v3"]
FORMS = ["rows", "flat"]


def gradients(loss: CausalLMLoss) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in loss.named_parameters() if parameter.grad is not None}
    loss.zero_grad()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*DENSE, *EXPERTS])
def test_the_gates_pass(tiny, kind, form):
    found = run_gates(tiny(kind), form)
    assert found["isolation"] <= (1e-5 if kind in EXPERTS else 0.0)
    assert found["parity"] < 1e-5 and found["attention"] <= 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", DENSE)
def test_a_changed_document_moves_its_neighbours_loss_by_exactly_nothing(tiny, kind, form):
    loss = tiny(kind)
    before, after = (loss(one_row([document, [9, 8, 7, 6, 5]], form=form)).nll[0, 4:] for document in ([1, 2, 3, 4], [50, 60, 70, 80]))
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", DENSE)
def test_packed_documents_have_the_loss_and_gradients_of_documents_alone(tiny, kind, row_batch):
    """The reason why packing is allowed at all; in fp64, so that only the order of summation differs."""
    loss = tiny(kind)
    loss.hf.double()
    packed = micro_batches(row_batch([[5, 11], [16], [1, 2, 13]]), 3, "cpu", "rows")[0]
    together = loss(packed)
    together.total.backward()
    wanted = gradients(loss)
    total, nll, flat = 0.0, [], packed.ids.flatten().tolist()
    for length in packed.lengths:
        alone = loss(one_row([flat[:length]]))
        alone.total.backward()
        total, flat = total + alone.loss_sum.detach(), flat[length:]
        nll.append(alone.nll[0])
    # some models make their rotary tables and norms in fp32 whatever their weights are
    torch.testing.assert_close(together.loss_sum.detach(), total, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together.nll.flatten(), torch.cat(nll), rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(loss).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", DENSE)
def test_loss_and_gradients_are_those_of_the_model_itself(tiny, kind):
    """The oracle is transformers alone: its attention, its logits, torch's cross-entropy."""
    loss = tiny(kind)
    ids = torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(3))
    loss(one_row(ids.tolist())).total.backward()
    ours = gradients(loss)
    with stock_attention(loss.hf):
        for document in ids:
            logits = loss.hf(input_ids=document[None], use_cache=False).logits[0, :-1]
            F.cross_entropy(logits, document[1:], reduction="sum").backward()
    for name, gradient in gradients(loss).items():
        torch.testing.assert_close(ours[name], gradient, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_a_micro_batch_changes_nothing(tiny, row_batch, form):
    rows = row_batch([[5, 11], [16], [1, 2, 13], [8, 8], [4, 12]])
    found = []
    for micro_rows in (1, 2, 3, 5):
        loss = tiny("llama")
        total = torch.zeros(())
        for batch in micro_batches(rows, micro_rows, "cpu", form):
            out = loss(batch)
            (out.total / batch.n_valid).backward()
            total += out.loss_sum.detach()
        norm = torch.cat([gradient.flatten() for gradient in gradients(loss).values()]).norm()
        found.append(torch.stack([total, norm]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-6)


def test_nll_by_source_adds_up(tiny, row_batch):
    """What the engine reports by source is a sum over the rows of this tensor."""
    rows = row_batch([[5, 11], [16], [1, 2, 13]])
    for form in FORMS:
        batch = micro_batches(rows, 3, "cpu", form)[0]
        out = tiny("llama")(batch)
        assert out.nll.shape == batch.labels.shape and not out.nll.requires_grad
        torch.testing.assert_close(batch.by_row(out.nll).sum(1).sum(), out.loss_sum.detach())
        assert (out.nll[batch.labels == IGNORE] == 0).all()


def test_weights_of_tokens_scale_their_loss(tiny, row_batch):
    rows = row_batch([[5, 11], [16]])
    plain = tiny("llama")(micro_batches(rows, 2, "cpu", "rows")[0])
    rows.weight = (torch.arange(32).view(2, 16) / 7).float().numpy()
    batch = micro_batches(rows, 2, "cpu", "rows")[0]
    weighted = tiny("llama")(batch)
    torch.testing.assert_close(weighted.loss_sum, (plain.nll * batch.weight).sum())
    assert torch.equal(weighted.nll, plain.nll)


def test_rows_of_padding_get_no_gradient_and_no_probability(tiny):
    """A tied table: the padding's rows are read by nobody, and the head gives them nothing."""
    loss = tiny("llama", true_vocab=120)
    ids = torch.randint(120, (2, 12), generator=torch.Generator().manual_seed(0)).tolist()
    loss(one_row(ids)).total.backward()
    assert loss.family.embedding.weight.grad[120:].abs().max() == 0
    assert parity_check(loss) < 1e-5


def test_a_teacher_at_every_position_reaches_the_loss(tiny, row_batch):
    """The same model as teacher: half of the loss becomes a divergence of 0, half the hard labels' NLL stays."""
    from rewarm.model.hooks import TeacherHead

    loss = tiny("gemma2")
    batch = micro_batches(row_batch([[5, 11], [16]]), 2, "cpu", "rows")[0]
    hidden = loss.hidden(batch).detach().flatten(0, 1)
    share = torch.full((len(hidden),), 0.5)
    out = loss(batch, TeacherHead(hidden, loss.family.head.weight.detach(), share, softcap=loss.family.softcap))
    torch.testing.assert_close(out.loss_sum, 0.5 * out.nll.sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_teacher_reads_the_replay_rows_of_a_micro_batch(tiny, row_batch, form):
    """The whole way of distillation: rows picked, hidden states of the base, its head inside the student's loss; against whole logits."""
    from rewarm.model.hooks import TeacherHead

    student, teacher = tiny("llama", seed=1), tiny("llama", seed=2, vocab_size=100)
    batch = micro_batches(row_batch([[5, 11], [16], [7, 9]], vocab=100), 3, "cpu", form)[0]
    with torch.no_grad():
        read = teacher.hidden(pick_rows(batch, [0, 2])).flatten(0, 1)
    at = torch.cat([torch.arange(16), torch.arange(32, 48)])
    head = teacher.family.head.weight.detach()
    out = student(batch, TeacherHead(read, head, torch.full((32,), 0.5), at=at))
    p = (student.hidden(batch).flatten(0, 1) @ student.family.head.weight.T).log_softmax(1).detach()
    q = (read @ head.T).log_softmax(1)
    kl = torch.zeros(48).index_copy(0, at, (q.exp() * (q - p[at][:, :100])).sum(1))
    share = torch.zeros(48).index_fill(0, at, 0.5) * (batch.labels.flatten() != IGNORE)
    torch.testing.assert_close(out.loss_sum.detach(), ((1 - share) * out.nll.flatten() + share * kl).sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "change", "gate"),
    [
        ("cohere", {"logit_scale": 1.0}, parity_check),
        ("gemma2", {"softcap": None}, parity_check),
        ("granite", {"logit_scale": 1.0}, parity_check),
    ],
)
def test_a_wrong_head_fails_the_gate(tiny, kind, change, gate):
    """A gate is worth what it catches: each mutant is a family whose secret number we did not know."""
    from dataclasses import replace

    loss = tiny(kind)
    with torch.no_grad():
        loss.family.head.weight.mul_(20)  # random weights of 0.02 hardly show a cap
    assert gate(loss) < 1e-4
    loss.family = replace(loss.family, **change)
    with pytest.raises(MachineError, match="is not reproduced"):
        gate(loss)


def test_an_ignored_bias_fails_the_gate(tiny):
    loss = tiny("phi")
    with torch.no_grad():
        loss.family.head.bias.normal_()
    assert parity_check(loss) < 1e-5
    head = SimpleNamespace(weight=loss.family.head.weight, bias=None)
    from dataclasses import replace

    loss.family = replace(loss.family, head=head)
    with pytest.raises(MachineError, match="is not reproduced"):
        parity_check(loss)


def test_a_leak_fails_the_gate(tiny, monkeypatch):
    """One piece where there are two: the mistake that a trainer without document masks makes by design."""
    loss = tiny("llama")
    monkeypatch.setattr("rewarm.model.loss.bounds_of", lambda batch: {"rw_lengths": (batch.ids.numel(),)})
    with pytest.raises(UserError, match="see each other"):
        isolation_check(loss)
    with pytest.raises(MachineError, match="is not reproduced"):
        parity_check(loss)


def test_a_layer_with_a_state_fails_the_gate(tiny):
    """A state-space layer runs on across documents whatever attention does."""
    with pytest.raises(UserError, match="see each other"):
        isolation_check(tiny("mamba"))


def test_a_wrong_kernel_fails_the_gate(tiny, monkeypatch):
    from rewarm.model import gates

    loss = tiny("llama")
    right = gates.attend

    def one_off(*args, **settings):  # type: ignore[no-untyped-def]
        return right(*args, **{**settings, "scaling": settings["scaling"] * 1.001})

    monkeypatch.setattr(gates, "attend", one_off)
    with pytest.raises(MachineError, match="attention kernel is wrong"):
        attention_check(loss)


def test_the_parts_of_a_model_are_found_by_structure(tiny_model):
    tied, own = family_of(tiny_model("llama")), family_of(tiny_model("gpt_neox"))
    assert tied.tied and tied.head.weight is tied.embedding.weight and not own.tied
    assert len(tied.layers) == 2 and tied.rows == 128 and tied.positions is None
    assert family_of(tiny_model("gpt2")).positions == 512
    assert family_of(tiny_model("cohere")).logit_scale == 0.25 and family_of(tiny_model("granite")).logit_scale == 0.25
    assert family_of(tiny_model("gemma2")).softcap == 30.0 and family_of(tiny_model("phi")).head.bias is not None
    assert family_of(tiny_model("mixtral")).experts and not tied.experts


def test_a_model_without_a_decoder_of_layers_is_refused():
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(
        BertConfig(vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    )
    with pytest.raises(UserError, match="model family `bert`"):
        family_of(model)
