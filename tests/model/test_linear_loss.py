"""The chunked loss against its definition, in fp64 wherever numbers are compared."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from rewarm.model.batch import IGNORE
from rewarm.model.hooks import SoftTargets, TeacherHead
from rewarm.model.linear_loss import linear_cross_entropy, linear_cross_entropy_reference

N, D, V, OLD = 11, 6, 17, 12


def case(bias: bool = False, weights: bool = False, ignore: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    labels = torch.randint(OLD, (N,), generator=generator)
    if ignore:
        labels[[2, 7]] = IGNORE
    return {
        "hidden_ND": normal(N, D).requires_grad_(),
        "weight_VD": normal(V, D).requires_grad_(),
        "labels_N": labels,
        "bias": normal(V).requires_grad_() if bias else None,
        "weight": torch.rand(N, generator=generator, dtype=dtype) if weights else None,
    }


def full_teacher(seed: int = 1, dtype: torch.dtype = torch.float64, **changes: object) -> TeacherHead:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(rows, 5, generator=generator, dtype=dtype) for rows in (N, OLD))
    share = torch.rand(N, generator=generator, dtype=dtype).mul_(0.8)
    share[4] = 0
    return TeacherHead(**{"hidden": hidden, "weight": weight, "share": share, **changes})


def kept_teacher(k: int = 3) -> SoftTargets:
    """The k most probable ids of `full_teacher` and one bucket for the rest."""
    full = full_teacher()
    q = (full.hidden @ full.weight.T).softmax(1)
    probs, ids = q.topk(k, dim=1)
    return SoftTargets(ids.int(), probs, (1 - probs.sum(1)).clamp_min(0), full.share)


def both(inputs: dict, chunk: int = 4, **settings: object) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(loss, nll, gradients...) of the chunked form and of the definition."""
    found = []
    for function, extra in ((linear_cross_entropy, {"chunk": chunk}), (linear_cross_entropy_reference, {})):
        learnt = [tensor for tensor in (inputs["hidden_ND"], inputs["weight_VD"], inputs["bias"]) if tensor is not None]
        for tensor in learnt:
            tensor.grad = None
        loss, nll = function(**inputs, **settings, **extra)
        (loss / 3).backward()
        found.append([loss.detach(), nll, *(tensor.grad for tensor in learnt)])
    return found[0], found[1]


def assert_equal(ours: list[torch.Tensor], reference: list[torch.Tensor]) -> None:
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("bias", "weights", "ignore"), product([False, True], repeat=3))
@pytest.mark.parametrize("bend", [{}, {"scale": 0.3}, {"softcap": 2.0}, {"scale": 1.7, "softcap": 1.5}, {"valid_rows": 13}])
def test_loss_and_gradients_equal_the_definition(bias, weights, ignore, bend):
    """Cohere scales its logits, gemma2 caps them, phi has a bias, padded rows are cut: every combination is somebody's model."""
    assert_equal(*both(case(bias, weights, ignore), **bend))


@pytest.mark.parametrize(
    "teacher", [full_teacher(), full_teacher(bias=torch.linspace(-1, 1, OLD).double(), scale=0.5, softcap=2.0), kept_teacher()]
)
@pytest.mark.parametrize("bend", [{}, {"scale": 1.7, "softcap": 1.5, "valid_rows": 15}])
def test_a_teacher_mixes_its_divergence_into_loss_and_gradient(teacher, bend):
    assert_equal(*both(case(bias=True, weights=True), targets=teacher, **bend))


@pytest.mark.parametrize("settings", [{}, {"softcap": 1.5, "scale": 0.7, "targets": full_teacher()}, {"targets": kept_teacher()}])
def test_the_gradient_is_the_derivative(settings):
    """Finite differences know nothing of our formulas, nor of autograd's."""
    inputs = case(bias=True, weights=True)

    def loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(hidden, weight, inputs["labels_N"], bias=bias, weight=inputs["weight"], chunk=4, **settings)[0]

    learnt = [inputs["hidden_ND"], inputs["weight_VD"], inputs["bias"]]
    loss(*learnt).backward()
    for tensor in learnt:
        flat, slopes = tensor.detach().view(-1), []
        for i in range(len(flat)):
            ends = []
            for sign in (1, -1):
                flat[i] += sign * 1e-6
                with torch.no_grad():
                    ends.append(float(loss(*learnt)))
                flat[i] -= sign * 1e-6
            slopes.append((ends[0] - ends[1]) / 2e-6)
        torch.testing.assert_close(tensor.grad.view(-1), torch.tensor(slopes, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def test_a_teacher_equal_to_the_student_teaches_nothing():
    """KL to itself is 0, and so is its gradient: with a share of 1 nothing of the hard labels is left."""
    inputs = case()
    itself = TeacherHead(inputs["hidden_ND"].detach(), inputs["weight_VD"].detach(), torch.ones(N, dtype=torch.float64))
    loss, _ = linear_cross_entropy(**inputs, targets=itself, chunk=4)
    loss.backward()
    assert abs(loss) < 1e-12
    assert inputs["hidden_ND"].grad.abs().max() < 1e-12
    assert inputs["weight_VD"].grad.abs().max() < 1e-12


def test_all_kept_ids_are_the_whole_vocabulary():
    """Top-k with k = V is the full divergence: the two forms of a teacher agree where they must."""
    full, kept = full_teacher(), kept_teacher(k=OLD)
    inputs = case()
    ours, _ = both(inputs, targets=full, valid_rows=OLD)
    theirs, _ = both(inputs, targets=kept, valid_rows=OLD)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["full", "kept"])
def test_a_teacher_may_read_some_of_the_tokens_only(kind):
    """A teacher of old text reads the replay rows; its head costs nothing for all others."""
    at = torch.tensor([1, 2, 5, 10])
    full = full_teacher(hidden=full_teacher().hidden[at], share=full_teacher().share[at], at=at)
    kept = kept_teacher()
    some = full if kind == "full" else SoftTargets(kept.ids[at], kept.probs[at], kept.rest[at], kept.weight[at], at)
    ours, reference = both(case(bias=True, weights=True), targets=some, softcap=2.0)
    assert_equal(ours, reference)
    share = torch.zeros(N, dtype=torch.float64).index_copy(0, at, full.share)
    everywhere = full_teacher(share=share) if kind == "full" else SoftTargets(kept.ids, kept.probs, kept.rest, share)
    assert_equal(ours, both(case(bias=True, weights=True), targets=everywhere, softcap=2.0)[0])


def test_share_zero_has_the_bits_of_no_teacher():
    plain, _ = both(case())
    taught, _ = both(case(), targets=full_teacher(share=torch.zeros(N, dtype=torch.float64)))
    assert all(torch.equal(one, other) for one, other in zip(plain, taught, strict=True))


@pytest.mark.parametrize("chunk", [1, 3, 11, 100])
def test_the_chunk_size_changes_nothing(chunk):
    ours, _ = both(case(bias=True, weights=True), chunk=chunk)
    whole, _ = both(case(bias=True, weights=True), chunk=N)
    assert_equal(ours, whole)


def test_nll_is_that_of_torch_and_carries_neither_weight_nor_gradient():
    inputs = case(weights=True)
    loss, nll = linear_cross_entropy(**inputs, chunk=4)
    logits = inputs["hidden_ND"] @ inputs["weight_VD"].T
    torch.testing.assert_close(nll, F.cross_entropy(logits, inputs["labels_N"], ignore_index=IGNORE, reduction="none").detach())
    torch.testing.assert_close(loss, (nll * inputs["weight"]).sum())
    assert nll[2] == 0 and not nll.requires_grad


def test_padded_rows_get_no_probability_and_no_gradient():
    """Rows beyond the vocabulary exist for the hardware only; a gradient there would train words that nobody can say."""
    inputs = case(bias=True)
    loss, _ = linear_cross_entropy(**inputs, valid_rows=13, chunk=4)
    loss.backward()
    assert torch.equal(inputs["weight_VD"].grad[13:], torch.zeros(V - 13, D, dtype=torch.float64))
    assert torch.equal(inputs["bias"].grad[13:], torch.zeros(V - 13, dtype=torch.float64))
    cut = {**inputs, "weight_VD": inputs["weight_VD"].detach()[:13], "bias": inputs["bias"].detach()[:13]}
    torch.testing.assert_close(loss, linear_cross_entropy_reference(**cut)[0])


def test_labels_that_count_nothing_have_no_gradient():
    inputs = case()
    linear_cross_entropy(**inputs, chunk=4)[0].backward()
    assert inputs["hidden_ND"].grad[[2, 7]].abs().max() == 0


def test_no_label_at_all_is_a_loss_of_zero():
    """A micro-batch of padding only must keep the collectives of a step even: zero, not a division by zero."""
    inputs = case()
    inputs["labels_N"].fill_(IGNORE)
    loss, nll = linear_cross_entropy(**inputs, chunk=4)
    loss.backward()
    assert loss == 0 and nll.abs().max() == 0 and inputs["weight_VD"].grad.abs().max() == 0
    none = {**case(), "hidden_ND": torch.zeros(0, D, requires_grad=True), "labels_N": torch.zeros(0, dtype=torch.long)}
    none["weight_VD"] = none["weight_VD"].detach().float().requires_grad_()
    assert linear_cross_entropy(**none)[0] == 0


def test_what_needs_no_gradient_gets_none_computed(monkeypatch):
    """Scoring must not pay for a gradient of the size of the head."""
    inputs = case()
    products = []
    plain = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(1) or plain(*a, **k))
    with torch.no_grad():
        linear_cross_entropy(**inputs, chunk=N)
    assert len(products) == 1
    frozen = {**inputs, "weight_VD": inputs["weight_VD"].detach()}
    linear_cross_entropy(**frozen, chunk=N)[0].backward()
    assert frozen["hidden_ND"].grad is not None and frozen["weight_VD"].grad is None


def test_logits_of_hundreds_do_not_overflow():
    """exp(1000) is infinite in fp32; the largest logit is taken off first, and the NLL is not read off a probability of 0."""
    hidden = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss, nll = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert nll[0] == 2000 and torch.isfinite(weight.grad).all()


def test_bf16_errs_at_most_twice_as_much_as_plain_torch_in_bf16():
    """The rule for 16 bits: no tolerance of ours, the error of the usual way is the measure."""
    exact = case(dtype=torch.float32, seed=3)
    wanted, _ = both(exact, chunk=4)

    def error(found: list[torch.Tensor]) -> list[float]:
        return [float((one.float() - two).abs().max()) for one, two in zip(found, wanted, strict=True)]

    halves = {
        key: value.detach().bfloat16().requires_grad_() if key in ("hidden_ND", "weight_VD") else value for key, value in exact.items()
    }
    ours, usual = both(halves, chunk=4)
    for mine, theirs in zip(error(ours), error(usual), strict=True):
        assert mine <= 2 * theirs + 1e-6


def test_under_autocast_products_run_in_bf16_and_gradients_come_back_in_fp32():
    inputs = case(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll = linear_cross_entropy(**inputs, chunk=4)
    loss.backward()
    assert loss.dtype == nll.dtype == inputs["hidden_ND"].grad.dtype == inputs["weight_VD"].grad.dtype == torch.float32
    exact, _ = linear_cross_entropy(**inputs, chunk=4)
    assert 0 < abs(loss - exact) < 0.02 * exact
