"""A plan as people read it."""

from __future__ import annotations

from rich.table import Table

from rewarm.chart import chart
from rewarm.console import Console, duration, quantity
from rewarm.plan import Plan


def can_show_blocks(console: Console) -> bool:
    """Whether the place that is printed to takes characters beyond ASCII."""
    return console.out.encoding.startswith("utf")


def _show_measured(plan: Plan, console: Console) -> None:
    """Time and memory, or that they were not asked for."""
    timed, ahead = plan.measured, plan.forecast
    if timed is None or ahead is None:
        console.say(f"Device: {plan.device}; time and memory were not measured (--quick)")
        return
    where = "GPU memory" if plan.device == "cuda" else "memory"
    console.say(f"Device: {plan.device}, {timed.precision}; {where} about {timed.memory_gib:.1f} GiB, {timed.micro_rows:,} rows at once")
    speed = plan.lengths.step_tokens / timed.step
    console.say(f"Time: about {duration(ahead.total)} in all; {timed.step:.3g} s a step, {quantity(speed, 'tokens')}/s (measured)")
    console.say("  " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in ahead.stages.items()))


def show_plan(plan: Plan, console: Console) -> None:
    """Prints the plan for people."""
    base = plan.base
    console.say(f"Base: {base['name']}, {quantity(base['parameters'], 'parameters')}, {base['layers']} layers of width {base['width']}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head, justify in (
        ("text", "left"),
        ("role", "left"),
        ("files", "right"),
        ("documents", "right"),
        ("MB", "right"),
        ("base tokens", "right"),
        ("", "left"),
    ):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for s in plan.sources:
        about = "" if s.exact else "estimated from its first 2 MB"
        table.add_row(s.name, s.role, f"{s.files:,}", f"{s.documents:,}", f"{s.bytes / 1e6:,.2f}", f"{s.tokens:,}", about)
    console.out.print(table)
    size = plan.lengths
    if plan.longer.new:
        console.say(f"Vocabulary: {plan.longer.new:,} new tokens make the sampled new text {1 / plan.longer.shorter:.2f} times shorter")
    console.say(f"Replay: {100 * plan.replay:.0f} % of the tokens ({plan.replay_why})")
    steps = (
        "as many as fit in train.max_minutes, measured at the start"
        if size.steps is None
        else f"{size.steps:,}, {size.planned_tokens:,} tokens in all"
    )
    console.say(f"Steps: {size.step_tokens:,} tokens ({size.batch_rows:,} rows) each; {steps}")
    if size.planned_tokens:
        for role, share in (("new", 1 - plan.replay), ("replay", plan.replay)):
            there = sum(s.tokens for s in plan.sources if s.role == role) * (plan.longer.shorter if role == "new" else 1.0)
            if there and share:
                console.say(f"  {role} text is read {size.planned_tokens * share / there:.2f} times")
    if plan.schedule:
        *starts, (_, last, end) = plan.schedule
        parts = [f"{name} from step {first:,} at {rate:.2g}" for name, first, rate in starts]
        console.say("Rate: " + ", ".join([*parts, f"step {last:,} at {end:.2g}"]))
    else:
        console.say(f"Rate: peak {plan.lr:g}")
    ends = ("step 0", f"step {plan.schedule[-1][1]:,}" if plan.schedule else "last step")
    for line in chart(plan.curve, ends, blocks=can_show_blocks(console)):
        console.say(line)
    _show_measured(plan, console)
    for note in plan.notes:
        console.warn(note)
    console.say("Nothing was trained or written.")
