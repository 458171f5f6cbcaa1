"""Negative log-likelihoods of given tokens under a causal model, as fast as the device allows: the base of every measurement.

Rows are sorted by length and padded at the right, where causal attention cannot look; the head runs only where a token is scored, a chunk
at a time, so the [N, V] logits are never there as a whole. On a CPU every batch is computed by one thread and several batches at once: one
batch over several threads was 10 % slower on two free cores, three to four times slower on busy ones (threads wait for each other in every
operation), and gave other last bits with every number of threads. Small batches, because what fits into a core's cache is faster: 312
tokens/s with rows of 256 and 260 with 2,048 tokens at once (135M parameters, fp32, one AVX2 core).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rewarm.errors import MachineError
from rewarm.model.attention import NAME, stock_attention
from rewarm.model.family import family_of
from rewarm.model.load import load_base
from rewarm.model.release import release_memory
from rewarm.signals import check_stop

Ids = npt.NDArray[np.int32]
Nll = npt.NDArray[np.float64]

BATCH_TOKENS = {"cpu": 256, "cuda": 16_384}
HEAD_LOGITS = {"cpu": 2**23, "cuda": 2**29}
"""Logits that are there at once: 32 MB on a CPU."""
AGREE, AGREE_16_BITS = 1e-3, 0.05
"""Nats a token that our head may differ from the model's own, on average; a bf16 logit near 30 has steps of 0.12."""
TURNING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that rewrite a buffer of the model in its forward pass: two threads would disturb each other."""


@contextmanager
def open_model(path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[PreTrainedModel]:
    """A model to score or to generate with: dropout off, transformers' own attention.

    Its memory is free again after the block, and before it that of what came before: a training leaves gigabytes of free heap.
    """
    release_memory()
    base = load_base(path, device, dtype)
    model = base.model.eval()
    with stock_attention(model):
        yield model
    del base, model
    release_memory()


def position_limit(model_or_config: object) -> int | None:
    """How many positions a model has by its config; None where it says nothing.

    The tokenizer's `model_max_length` is not asked: it is 10^30 where nobody set it, and often smaller or larger than the model's own.
    """
    config = getattr(model_or_config, "config", model_or_config)
    for part in (config, config.get_text_config()):  # type: ignore[attr-defined]
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"):
            if isinstance(value := getattr(part, name, None), int) and value > 0:
                return value
    return None


# Axes: B rows of a batch, T positions of the longest row, N scored tokens, D width, V rows of the head.
class Scorer:
    """NLL of given tokens. The model stays as it is: mode, weights, attention and gradients, also in the middle of a training.

    pad_id: any valid id, for the right end of short rows; None = 0. dtype: what products are computed in; None = the weights' type. bf16 is
    best over fp32 weights: a residual stream in bf16 made a change of 0.0796 bits per byte 0.0760, products alone made it 0.0795, as fast
    (135M parameters on a CPU). batch_tokens: padded tokens of a batch, by default 256 on a CPU and 16,384 on a GPU. threads:
    batches at once on a CPU, by default as many as torch would use.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pad_id: int | None = None,
        dtype: torch.dtype | None = None,
        batch_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.model, self.pad_id = model, pad_id or 0
        self.family = family_of(model)
        weight = self.family.head.weight
        self.device = weight.device
        self.dtype = None if dtype == weight.dtype else dtype
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cuda"])
        self.threads = 1 if self.device.type != "cpu" or _turns(model) else threads or torch.get_num_threads()
        self._few_shapes = self.device.type == "cpu" and (self.dtype or weight.dtype).itemsize == 2  # `attention.SHORT` says why
        self._limit = position_limit(model) or 2**31
        self._split: bool | None = None

    def nll(self, ids: Sequence[Ids], first: Sequence[int], progress: Callable[[int], None] | None = None) -> list[Nll]:
        """For every row the nats of its tokens `first..`: -ln p(token | those before it in the row), float64, rows in the order given.

        A token at position 0 has nothing before it and costs ln V. progress hears of the tokens of every batch that is done. Raises Stopped
        between batches if a stop was asked for, MachineError where a row does not fit into the GPU.
        """
        assert len(ids) == len(first) and all(0 <= begin <= len(row) for row, begin in zip(ids, first))
        out: list[Nll] = [np.full(len(row) - begin, np.log(self.family.rows)) for row, begin in zip(ids, first)]
        batches = self._batches(ids, first)
        if not batches:
            return out
        lock = Lock()

        def work() -> None:
            with self._context():
                while True:
                    with lock:
                        if not batches:
                            return
                        batch = batches.popleft()
                    try:
                        check_stop()
                        self._score(batch, ids, first, out)
                    except BaseException:
                        with lock:
                            batches.clear()
                        raise
                    if progress:
                        with lock:
                            progress(sum(len(ids[row]) for row in batch))

        with _eval_mode(self.model), _one_thread(self.device):
            if self._split is None:
                with self._context():
                    self._split = self._agrees(ids[batches[0][0]])
            if self.threads == 1:
                work()
            else:
                with ThreadPoolExecutor(self.threads) as pool:
                    for done in [pool.submit(work) for _ in range(self.threads)]:
                        done.result()
        return out

    def _batches(self, ids: Sequence[Ids], first: Sequence[int]) -> deque[list[int]]:
        """Rows with something to score, the longest first (what does not fit fails at once), as many together as `batch_tokens` hold."""
        batches: deque[list[int]] = deque()
        room = 0
        for row in sorted((i for i in range(len(ids)) if len(ids[i]) > max(first[i], 1)), key=lambda i: (-len(ids[i]), i)):
            if room < 1:
                batches.append([])
                room = max(1, self.batch_tokens // len(ids[row]))
            batches[-1].append(row)
            room -= 1
        return batches

    def _score(self, batch: list[int], ids: Sequence[Ids], first: Sequence[int], out: list[Nll]) -> None:
        try:
            values = self._nll_of([ids[row] for row in batch], [max(first[row], 1) for row in batch])
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise MachineError(
                    f"one row of {len(ids[batch[0]]):,} tokens does not fit into the GPU's memory: {str(error).splitlines()[0]}",
                    where="scoring",
                    fix="use bf16, a smaller window, or a larger GPU",
                ) from error
            values = None
        if values is None:
            torch.cuda.empty_cache()
            half = len(batch) // 2
            self._score(batch[:half], ids, first, out)
            self._score(batch[half:], ids, first, out)
            return
        for row, nll in zip(batch, values):
            out[row][len(out[row]) - len(nll) :] = nll

    def _nll_of(self, rows: list[Ids], first: list[int]) -> list[Nll]:
        """One batch: NLL of each row's tokens first[i].., first >= 1."""
        width = self._width(max(len(row) for row in rows))
        padded = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for place, row in zip(padded, rows):
            place[: len(row)] = row
        # the hidden state at position t speaks about token t + 1
        at = np.concatenate([i * width + np.arange(begin - 1, len(row) - 1) for i, (row, begin) in enumerate(zip(rows, first))])
        labels = torch.from_numpy(np.concatenate([row[begin:] for row, begin in zip(rows, first)]).astype(np.int64)).to(self.device)
        ids_BT = torch.from_numpy(padded).to(self.device)
        places = torch.from_numpy(at).to(self.device)
        if self._split:
            nll = self._head_nll(self._hidden(ids_BT).flatten(0, 1)[places], labels)
        else:
            logits = self._own_logits(ids_BT).flatten(0, 1)[places].float()
            nll = logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
        return np.split(nll.double().cpu().numpy(), np.cumsum([len(row) - begin for row, begin in zip(rows, first)])[:-1])

    def _width(self, longest: int) -> int:
        """Tokens that a batch's rows are filled up to: on a CPU in 16 bits one of few numbers, at most an eighth above `longest`."""
        if not self._few_shapes:
            return longest
        step = 2 ** min(max(longest.bit_length() - 4, 0), 6)
        return max(longest, min(longest + -longest % step, self._limit))

    def _hidden(self, ids_BT: Tensor) -> Tensor:
        return self.family.decoder(input_ids=ids_BT, use_cache=False, **self._bounds(ids_BT)).last_hidden_state

    def _own_logits(self, ids_BT: Tensor) -> Tensor:
        return self.model(input_ids=ids_BT, use_cache=False, **self._bounds(ids_BT)).logits

    def _bounds(self, ids_BT: Tensor) -> dict[str, list[int]]:
        """What our attention asks for where a model in training runs with it: every row is one piece."""
        rows, width = ids_BT.shape
        return {"rw_lengths": [width] * rows} if self.model.config._attn_implementation == NAME else {}

    def _head_nll(self, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        """fp32 nats of every label, from the hidden states before the head."""
        family, head = self.family, self.family.head
        nll = torch.empty(len(labels_N), dtype=torch.float32, device=self.device)
        chunk = max(32, HEAD_LOGITS.get(self.device.type, HEAD_LOGITS["cuda"]) // family.rows)
        for begin in range(0, len(labels_N), chunk):
            cut = slice(begin, begin + chunk)
            hidden = hidden_ND[cut]
            count = len(hidden)
            if self._few_shapes:
                hidden = torch.nn.functional.pad(hidden, (0, 0, 0, -count % 16))
            logits = torch.nn.functional.linear(hidden, head.weight, head.bias)[:count].float()
            if family.logit_scale != 1.0:
                logits *= family.logit_scale
            if family.softcap is not None:
                logits = family.softcap * torch.tanh(logits / family.softcap)
            picked = logits.gather(1, labels_N[cut, None])[:, 0]
            nll[cut] = logits.logsumexp(1) - picked
        return nll

    def _agrees(self, row: Ids) -> bool:
        """Whether decoder and head, as we put them together, give the model's own logits on the row's first tokens.

        They do for every family known to us; a number hidden in another one's forward pass would make every score wrong, and then its own
        logits are taken, which is slower.
        """
        ids = torch.from_numpy(row[:16].astype(np.int64))[None].to(self.device)
        labels = torch.roll(ids[0], 1)
        own = torch.nn.functional.cross_entropy(self._own_logits(ids)[0].float(), labels, reduction="none")
        ours = self._head_nll(self._hidden(ids)[0], labels)
        difference = float((own - ours).abs().mean())
        wide = (self.dtype or self.family.head.weight.dtype) in (torch.float32, torch.float64)
        return not difference > (AGREE if wide else AGREE_16_BITS)

    @contextmanager
    def _context(self) -> Iterator[None]:
        """no_grad, not inference_mode: what a model in training may keep from this pass must not be an inference tensor, and autocast casts
        weights again in every batch there."""
        if self.dtype is None:
            with torch.no_grad():
                yield
            return
        try:
            with torch.no_grad(), torch.autocast(self.device.type, dtype=self.dtype):
                yield
        finally:
            torch.clear_autocast_cache()  # casts without gradients, if the caller's own autocast is still open


def _turns(model: PreTrainedModel) -> bool:
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]
    return any(part.get("rope_type") in TURNING_ROPE for part in kinds)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, one thread an operation: for this process's other threads too, until the block ends."""
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
