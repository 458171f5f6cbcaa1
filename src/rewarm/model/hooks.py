"""What a method against forgetting may do to training, and nothing more: the seam between `keep` and `train`.

It lives here because the loss, the engine and `keep` all import it. Every hook is a no-op, and a method overrides one to three of them;
the engine calls a `Stack`. An empty stack adds no arithmetic at all, so a run with it has the bits of a run without hook code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from rewarm.errors import UserError

if TYPE_CHECKING:
    from rewarm.model.batch import DeviceBatch
    from rewarm.model.family import Family
    from rewarm.model.loss import LossOut


# Axes: N tokens of the micro-batch in the order of its labels, M of them that a teacher reads, k kept ids, D the teacher's width.
@dataclass(frozen=True, slots=True)
class SoftTargets:
    """A teacher's distribution, cut to its k largest probabilities and one bucket for all the rest.

    ids int32 [M, k]; probs fp32 [M, k]; rest fp32 [M]: 1 - sum of probs, not negative. weight fp32 [M]: the share of a token's loss that
    is distillation, in 0..1. at int64 [M] on the CPU: which labels, in rising order; None = all, M = N.
    """

    ids: Tensor
    probs: Tensor
    rest: Tensor
    weight: Tensor
    at: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TeacherHead:
    """A frozen teacher's last hidden states and head: its logits are made chunk by chunk inside the loss and never kept.

    hidden [M, D] and weight [V_old, D] in one type; its vocabulary is the first V_old ids of the student's. bias [V_old] or None, scale and
    softcap are its family's. share fp32 [M]: the share of a token's loss that is distillation, in 0..1; 0 where the teacher cannot read.
    at int64 [M] on the CPU: which labels, in rising order; None = all, M = N.
    """

    hidden: Tensor
    weight: Tensor
    share: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    at: Tensor | None = None


Targets = SoftTargets | TeacherHead


@dataclass(frozen=True, slots=True)
class Actions:
    """What a method asks for after an evaluation; logged, and replayed on resume. None leaves a thing as it is."""

    replay_share: float | None = None
    rate_factor: float | None = None
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter as this rank holds it: `local` rows start at row `offset` of the whole; `new_rows` (first, past the last) or None.

    kind: `embedding`, `head`, `matrix` (of a layer) or `vector` (norms, biases).
    """

    name: str
    local: nn.Parameter
    offset: int
    kind: str
    new_rows: tuple[int, int] | None


class Context(Protocol):
    """What the engine lends to a method. `h` is the schedule's factor at this step, `h_end` at the last; `lr` = peak rate times h."""

    step: int
    steps: int
    lr: float
    h: float
    h_end: float
    domain: str
    domains: Sequence[str]

    @property
    def params(self) -> Sequence[Param]: ...

    def reference(self, name: str) -> Tensor:
        """The local shard of the start weights of this parameter."""

    def grads_of(self, source: str, rows: int) -> dict[str, Tensor]:
        """Gradients of the mean loss over `rows` rows of a source, by parameter name; the step's own gradients are untouched."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks."""

    def rng(self, name: str) -> torch.Generator:
        """A generator that depends on the run's seed, the step and `name` only."""


class Method:
    """One way not to forget. Override one to three hooks; keep what must survive a restart in `state_dict`."""

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Out of `replay`, `reference`, `domains`; checked when the recipe is read."""
    excludes: ClassVar[frozenset[str]] = frozenset()
    """Names of methods that cannot run beside this one."""
    averages: ClassVar[bool] = False
    """Replaces weights by averages: its `after_step` runs after all others."""

    def build(self, hf: nn.Module, family: Family) -> None:
        """Before freezing, compiling and sharding: insert modules, choose what trains."""

    def prepare(self, ctx: Context) -> int:
        """Before step 0, after sharding: importance, teacher. Returns the bytes it holds; resumable."""
        return 0

    def targets(self, ctx: Context, batch: DeviceBatch) -> Targets | None:
        """Before a micro-batch's forward: what the loss distils from."""
        return None

    def loss(self, ctx: Context, out: LossOut) -> Tensor | None:
        """A SUM over the micro-batch's tokens. A penalty on weights does not belong here: it would count once a micro-batch and rank."""
        return None

    def gradients(self, ctx: Context) -> None:
        """Once a step, on local shards already summed over ranks, before clipping."""

    def update_scale(self, name: str) -> Tensor | None:
        """A factor in 0..1 on the optimiser's UPDATE of this parameter, of its local shard's shape; 0 keeps the bits."""
        return None

    def before_step(self, ctx: Context) -> None: ...

    def after_step(self, ctx: Context) -> None: ...

    def on_eval(self, metrics: dict[str, Any]) -> Actions | None:
        """After an evaluation; None asks for nothing."""
        return None

    def finish(self, ctx: Context) -> None:
        """At the end of a domain."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Stack:
    """Several methods as one: losses are summed, scales multiplied, `gradients` and `after_step` run in listed order, averaging last."""

    def __init__(self, methods: Sequence[Method] = ()) -> None:
        self.methods = tuple(methods)
        names = [method.name for method in self.methods]
        for method in self.methods:
            if names.count(method.name) > 1:
                raise UserError(f"`{method.name}` is listed twice", where="keep.methods")
            if clash := sorted(method.excludes & set(names)):
                raise UserError(f"`{method.name}` cannot run beside `{clash[0]}`", where="keep.methods", fix="choose one of the two")
        teachers = self._overriding("targets")
        if len(teachers) > 1:
            both = " and ".join(f"`{method.name}`" for method in teachers[:2])
            raise UserError(f"{both} both give targets to the loss", where="keep.methods", fix="choose one of the two")
        self._teacher = teachers[0] if teachers else None

    def _overriding(self, hook: str) -> list[Method]:
        return [method for method in self.methods if getattr(type(method), hook) is not getattr(Method, hook)]

    def build(self, hf: nn.Module, family: Family) -> None:
        for method in self.methods:
            method.build(hf, family)

    def prepare(self, ctx: Context) -> int:
        return sum(method.prepare(ctx) for method in self.methods)

    def targets(self, ctx: Context, batch: DeviceBatch) -> Targets | None:
        return self._teacher.targets(ctx, batch) if self._teacher else None

    def loss(self, ctx: Context, out: LossOut) -> Tensor | None:
        """The sum of the methods' losses; None, not zero, where none has one."""
        parts = [part for method in self.methods if (part := method.loss(ctx, out)) is not None]
        return sum(parts[1:], start=parts[0]) if parts else None

    def gradients(self, ctx: Context) -> None:
        for method in self.methods:
            method.gradients(ctx)

    def update_scale(self, name: str) -> Tensor | None:
        """The product of the methods' factors; None where none has one, and then the update is the plain optimiser's."""
        product: Tensor | None = None
        for method in self.methods:
            if (factor := method.update_scale(name)) is not None:
                product = factor if product is None else product * factor
        return product

    def before_step(self, ctx: Context) -> None:
        for method in self.methods:
            method.before_step(ctx)

    def after_step(self, ctx: Context) -> None:
        for method in sorted(self.methods, key=lambda method: method.averages):
            method.after_step(ctx)

    def on_eval(self, metrics: dict[str, Any]) -> Actions:
        """The most careful of the answers: the largest replay share, the smallest rate, a stop if any asks for one."""
        answers = [answer for method in self.methods if (answer := method.on_eval(metrics)) is not None]
        shares = [answer.replay_share for answer in answers if answer.replay_share is not None]
        factors = [answer.rate_factor for answer in answers if answer.rate_factor is not None]
        return Actions(max(shares, default=None), min(factors, default=None), any(answer.stop for answer in answers))

    def finish(self, ctx: Context) -> None:
        for method in self.methods:
            method.finish(ctx)

    def state_dict(self) -> dict[str, Any]:
        return {method.name: method.state_dict() for method in self.methods}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for method in self.methods:
            method.load_state_dict(state[method.name])
