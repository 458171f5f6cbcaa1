"""What the user decides about the training: `train:` in a recipe. No torch here, so that reading a recipe stays fast."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from rewarm.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Schedule = Literal["cosine", "infinite", "wsd", "linear", "constant", "none"]
SCHEDULE_FIELDS: dict[Schedule, tuple[str, ...]] = {
    "cosine": ("warmup_share", "min_ratio"),
    "infinite": ("warmup_share", "min_ratio", "plateau_ratio", "cooldown_share", "anneal_share"),
    "wsd": ("warmup_share", "min_ratio", "anneal_share", "anneal"),
    "linear": ("warmup_share", "min_ratio"),
    "constant": ("warmup_share",),
    "none": (),
}
"""The fields that have an effect with each schedule; another one that is set is an error."""
ANNEAL_SHARE = {"infinite": 0.15, "wsd": 0.2}
"""What `anneal_share: auto` is, for the schedules that have an anneal."""


class RateScale(Section):
    """Rates that differ from `lr`, as factors on the optimiser's update."""

    new_rows: NonNegativeFloat = 8.0
    """Factor on the update of the new vocabulary rows (input and output): they start from a guess, all the rest from a trained model. 8 was
    worth 0.10 bits a byte at 135M parameters; above 1B it is unmeasured. 0 freezes them, 1 treats them like all others."""


class TrainRecipe(Section):
    """How long, how fast and with what rate the model trains."""

    tokens: Literal["auto"] | PositiveInt = "auto"
    """Tokens to train on, old and new together. `auto`: one epoch of the new text at the mixture's share of replay."""
    max_minutes: PositiveFloat | None = None
    """Minutes for the whole training stage (loading, probes and saving included), in place of `tokens`: turned into a number of steps once,
    by a short measurement, then kept, so that a resumed run is the same run."""
    max_hours: PositiveFloat | None = None
    """Hours after which this process saves a checkpoint and stops, whatever is left: for machines lent by the hour. The same command goes
    on."""
    step_tokens: Literal["auto"] | PositiveInt = "auto"
    """Tokens between two updates, rounded to whole rows. `auto`: a 200th of the run, at most 524,288, at least one row; where `max_minutes`
    leaves the length open, 1,024 on a CPU and 65,536 on a GPU. Small steps learn more and forget more."""
    micro_rows: Literal["auto"] | PositiveInt = "auto"
    """Rows that go through the model at once; changes speed and memory, not the result. `auto`: on a CPU up to 512 tokens, on a GPU up to
    65,536, halved until they fit."""
    lr: Literal["auto"] | PositiveFloat = "auto"
    """Peak learning rate. `auto`: by the number of parameters, from 6e-4 (up to 200M) down to 2e-5 (above 9B)."""
    lr_scale: RateScale = RateScale()
    """Parts of the model with a rate of their own."""
    weight_decay: NonNegativeFloat = 0.1
    """AdamW's weight decay, on the matrices of the layers only: on embeddings it would shrink the words that the new text lacks."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's decay of the first and the second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's epsilon, added to the root of the second moment."""
    clip: PositiveFloat = 1.0
    """Largest global norm of the gradient; above it the gradient is scaled down."""
    schedule: Schedule = "cosine"
    """How the rate goes after the warm-up. `cosine`, `linear`: down to `min_ratio` at the end. `infinite`: down to `plateau_ratio`, there
    constant, then annealed to `min_ratio`. `wsd`: constant, then annealed to `min_ratio`. `constant`: `lr` to the end. `none`: `lr` from
    the first step to the last. `infinite` and `wsd` also keep the weights from before the anneal, for the next domain to start from."""
    warmup_share: Annotated[float, Field(ge=0.0, le=0.5)] = 0.01
    """Share of the steps in which the rate rises from 0 to `lr`; above 0 it is at least one step. All schedules but `none`."""
    min_ratio: Share = 0.1
    """Rate at the end, as a share of `lr`; 0 is allowed, but for `infinite`. Not for `constant` and `none`."""
    plateau_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.55
    """The constant rate of `infinite`, as a share of `lr`."""
    cooldown_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """Share of the steps in which `infinite` goes down to its constant rate, along a cosine, after the warm-up; at least one step."""
    anneal_share: Literal["auto"] | Annotated[float, Field(gt=0.0, lt=1.0)] = "auto"
    """Share of the steps, the last ones, in which `infinite` or `wsd` goes down to `min_ratio`; at least one step. `auto`: 0.15 and 0.2."""
    anneal: Literal["1-sqrt", "linear"] = "1-sqrt"
    """How `wsd` goes down: `1-sqrt` falls fast at first and slowly at the end. (`infinite` goes down by an equal factor each step.)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. `auto`: a CUDA GPU if there is one."""
    precision: Literal["auto", "fp32", "mixed"] = "auto"
    """`mixed` computes in bf16 and keeps fp32 weights and moments. `auto`: mixed on a GPU and on a CPU with bf16 instructions, else
    fp32."""
    compile: Literal["auto"] | bool = "auto"
    """Compile each layer of the model before training. `auto`: on a GPU only; on a CPU it takes longer than it gains."""
    probe_every: Literal["auto", "off"] | PositiveInt = "auto"
    """Steps between two measurements of bits per byte on the held-out texts. `auto`: always at the start and the end, between them as many
    (up to 48) as cost 3 % of the training. `off`: none. They do not change the weights."""
    checkpoint_steps: PositiveInt = 500
    """Steps after which a checkpoint is due."""
    checkpoint_minutes: PositiveFloat = 30.0
    """Minutes after which a checkpoint is due."""
    keep_last: Annotated[int, Field(ge=1)] = 3
    """Checkpoints kept while training; when the final model is written they are removed."""
    log_every: PositiveInt = 1
    """Steps per line of `metrics.jsonl`; a line holds the mean of its steps."""
    deterministic: bool = False
    """On a GPU: only kernels that add in a fixed order, so that a resumed run has the same bits; slower. On a CPU it is always so."""
    seed: int = 0
    """Seed of the order of the rows."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_minutes is not None and self.tokens != "auto":
            raise ValueError("tokens and max_minutes both set the length: leave one of them out")
        return self

    @model_validator(mode="after")
    def _no_field_without_effect(self) -> Self:
        every = [name for name in type(self).model_fields if any(name in names for names in SCHEDULE_FIELDS.values())]
        for name in every:
            if name in self.model_fields_set and name not in SCHEDULE_FIELDS[self.schedule]:
                where = ", ".join(schedule for schedule, names in SCHEDULE_FIELDS.items() if name in names)
                raise ValueError(f"{name} has no effect with schedule: {self.schedule}; leave it out, or take one that has it ({where})")
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.schedule not in ANNEAL_SHARE:
            return self
        cooldown = self.cooldown_share if self.schedule == "infinite" else 0.0
        anneal = ANNEAL_SHARE[self.schedule] if self.anneal_share == "auto" else self.anneal_share
        if self.warmup_share + cooldown + anneal > 1.0 + 1e-9:
            parts = f"warmup_share {self.warmup_share:g}" + (f", cooldown_share {cooldown:g}" if cooldown else "")
            raise ValueError(f"{parts} and anneal_share {anneal:g} are more than the whole run: lower one of them")
        if self.schedule == "infinite" and not 0.0 < self.min_ratio <= self.plateau_ratio:
            raise ValueError(
                f"min_ratio {self.min_ratio:g} must be above 0 and at most plateau_ratio {self.plateau_ratio:g}: "
                "the anneal of infinite goes from one to the other by an equal factor each step"
            )
        return self
