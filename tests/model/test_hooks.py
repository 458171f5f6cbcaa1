"""The seam between training and the methods against forgetting: how several methods become one."""

from __future__ import annotations

import pytest
import torch

from rewarm.errors import UserError
from rewarm.model.hooks import Actions, Method, Stack


def method(named: str, **hooks: object) -> Method:
    return type(named, (Method,), {"name": named, **hooks})()


def test_an_empty_stack_asks_for_nothing():
    """None, not zero: a zero would be added, and adding changes the graph."""
    stack = Stack()
    assert stack.loss(None, None) is None and stack.targets(None, None) is None and stack.update_scale("a") is None
    assert stack.on_eval({}) == Actions() and stack.prepare(None) == 0 and stack.state_dict() == {}


def test_a_method_that_overrides_nothing_asks_for_nothing():
    stack = Stack([method("idle")])
    assert stack.loss(None, None) is None and stack.targets(None, None) is None and stack.update_scale("a") is None


def test_losses_add_up_and_scales_multiply():
    one = method("one", loss=lambda *_: torch.tensor(2.0), update_scale=lambda *_: torch.tensor([0.5, 1.0]))
    two = method("two", loss=lambda *_: torch.tensor(3.0), update_scale=lambda *_: torch.tensor([0.5, 0.0]))
    stack = Stack([one, method("idle"), two])
    assert stack.loss(None, None) == 5
    assert stack.update_scale("w").tolist() == [0.25, 0.0]


def test_steps_run_in_listed_order_and_averaging_last():
    """An average taken before another method moved the weights would be one of half a step."""
    ran: list[str] = []

    def noted(named: str, averages: bool = False) -> Method:
        return method(named, averages=averages, after_step=lambda *_: ran.append(named), gradients=lambda *_: ran.append(f"{named}:g"))

    stack = Stack([noted("ema", averages=True), noted("b"), noted("a")])
    stack.gradients(None)
    stack.after_step(None)
    assert ran == ["ema:g", "b:g", "a:g", "b", "a", "ema"]


def test_the_most_careful_answer_wins_after_an_evaluation():
    stack = Stack(
        [
            method("one", on_eval=lambda *_: Actions(replay_share=0.2, rate_factor=0.9)),
            method("two", on_eval=lambda *_: Actions(replay_share=0.3, stop=True)),
        ]
    )
    assert stack.on_eval({}) == Actions(replay_share=0.3, rate_factor=0.9, stop=True)


def test_methods_that_exclude_each_other_are_refused():
    with pytest.raises(UserError, match="`one` cannot run beside `two`"):
        Stack([method("one", excludes=frozenset({"two"})), method("two")])
    with pytest.raises(UserError, match="listed twice"):
        Stack([method("one"), method("one")])


def test_only_one_teacher():
    """Two distributions for one token have no agreed mix; one method's targets would silently win."""
    with pytest.raises(UserError, match="`one` and `two` both give targets"):
        Stack([method("one", targets=lambda *_: None), method("two", targets=lambda *_: None)])


def test_states_go_back_to_the_method_they_came_from():
    loaded = {}
    one = method("one", state_dict=lambda _: {"a": 1}, load_state_dict=lambda _, state: loaded.update(state))
    stack = Stack([method("idle"), one])
    stack.load_state_dict(stack.state_dict())
    assert loaded == {"a": 1}
