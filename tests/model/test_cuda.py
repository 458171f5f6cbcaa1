"""What only a GPU can show: the ragged kernel, compiled layers, the loss's 16-bit sums. Skipped without one."""

from __future__ import annotations

import pytest
import torch

from rewarm.model.batch import form_for, micro_batches
from rewarm.model.gates import run_gates
from rewarm.model.linear_loss import linear_cross_entropy, linear_cross_entropy_reference
from rewarm.model.precision import choose_precision
from rewarm.model.varlen import varlen_attention, varlen_reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    return [float((one.float() - two.float()).abs().max()) for one, two in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("window", [None, 1, 64])
@pytest.mark.parametrize(("heads", "keys", "channels"), [(9, 3, 64), (8, 8, 128), (4, 1, 96)])
def test_the_ragged_kernel_errs_at_most_twice_as_much_as_dense_bf16(heads, keys, channels, window):
    lengths = [1, 17, 494, 200]
    generator = torch.Generator(GPU).manual_seed(0)
    tensors = [torch.randn(712, n, channels, generator=generator, device=GPU) for n in (heads, keys, keys, heads)]
    cu = torch.full((20,), 712, dtype=torch.int32, device=GPU)
    cu[:5] = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    meta = torch.tensor([4, 494])

    def run(function, dtype: torch.dtype) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
        q, k, v = (x.detach().clone().to(dtype).requires_grad_() for x in tensors[:3])
        out = function(q, k, v, cu, meta, channels**-0.5, window)
        out = out[0] if isinstance(out, tuple) else out
        out.backward(tensors[3].to(dtype))
        return [out.detach(), q.grad, k.grad, v.grad]

    exact = run(varlen_reference, torch.float32)
    usual = error(run(varlen_reference, torch.bfloat16), exact)
    for mine, theirs in zip(error(run(varlen_attention, torch.bfloat16), exact), usual, strict=True):
        assert mine <= 2 * theirs + 1e-3


@pytest.mark.parametrize("precision", ["mixed", "fp32"])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3", "gemma2", "gpt2", "gpt_neox", "mixtral"])
def test_the_gates_pass_on_a_gpu(tiny, kind, precision):
    loss = tiny(kind).to(GPU)
    with choose_precision(precision, GPU).context(GPU):
        run_gates(loss, form_for(GPU, compiled=False))


def test_compiled_layers_give_the_same_loss_and_do_not_compile_again(tiny, row_batch):
    loss, plain = tiny("llama").to(GPU), tiny("llama").to(GPU)
    for layer in loss.family.layers:
        layer.compile(fullgraph=True, dynamic=False)
    packings = ([[64], [3, 61]], [[16, 16, 32], [64]], [[1, 63], [20, 20, 24]])
    batches = [micro_batches(row_batch(cuts, seed), 2, GPU, "flat", row_pieces=3)[0] for seed, cuts in enumerate(packings)]
    precision = choose_precision("mixed", GPU)
    for number, batch in enumerate(batches):
        with precision.context(GPU), torch.compiler.set_stance("default" if number == 0 else "fail_on_recompile"):
            out = loss(batch)
            (out.total / batch.n_valid).backward()
        with precision.context(GPU):
            wanted = plain(batch)
        torch.testing.assert_close(out.loss_sum, wanted.loss_sum, rtol=2e-3, atol=0)


@pytest.mark.parametrize("chunk", [256, 1000])
def test_the_loss_sums_in_fp32_over_16_bit_products(chunk):
    generator = torch.Generator(GPU).manual_seed(0)
    x, w = (torch.randn(n, 64, generator=generator, device=GPU) for n in (1000, 5000))
    labels = torch.randint(5000, (1000,), generator=generator, device=GPU)

    def run(function, dtype: torch.dtype, **extra: object) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
        hidden, head = (tensor.detach().clone().to(dtype).requires_grad_() for tensor in (x, w))
        loss, nll = function(hidden, head, labels, **extra)
        loss.backward()
        return [loss.detach(), nll, hidden.grad, head.grad]

    exact = run(linear_cross_entropy_reference, torch.float32)
    usual = error(run(linear_cross_entropy_reference, torch.bfloat16), exact)
    for mine, theirs in zip(error(run(linear_cross_entropy, torch.bfloat16, chunk=chunk), exact), usual, strict=True):
        assert mine <= 2 * theirs + 1e-3
    for one, other in zip(run(linear_cross_entropy, torch.float32, chunk=chunk), exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
