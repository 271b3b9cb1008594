"""Schedules: what any of them guarantees, and the closed forms that their papers state."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis.strategies import integers, sampled_from

from antiphon.policy.pipeline.action import Kind, Schedule, counted_held, held
from antiphon.policy.pipeline.gpipe import gpipe
from antiphon.policy.pipeline.one_forward_one_backward import one_forward_one_backward
from antiphon.registry import find

SCHEDULES = (gpipe, one_forward_one_backward)
STAGES, MICROBATCHES = integers(1, 16), integers(1, 64)


@given(schedule=sampled_from(SCHEDULES), stages=STAGES, microbatches=MICROBATCHES)
def test_every_microbatch_goes_forward_once_and_then_backward_once(
    schedule: Schedule, stages: int, microbatches: int
) -> None:
    for stage in range(stages):
        actions = list(schedule(stage, stages, microbatches))
        assert len(actions) == len(set(actions)) == 2 * microbatches
        assert {action.stage for action in actions} == {stage}
        place = {(action.kind, action.microbatch): i for i, action in enumerate(actions)}
        for microbatch in range(microbatches):
            assert place[Kind.FORWARD, microbatch] < place[Kind.BACKWARD, microbatch]


@given(schedule=sampled_from(SCHEDULES), stages=STAGES, microbatches=MICROBATCHES)
def test_backwards_go_in_the_order_of_forwards_so_that_sums_are_equal_bit_for_bit(
    schedule: Schedule, stages: int, microbatches: int
) -> None:
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        order = [a.microbatch for a in schedule(0, stages, microbatches) if a.kind is kind]
        assert order == list(range(microbatches))


@given(stages=STAGES, microbatches=MICROBATCHES)
def test_activations_held_are_those_of_the_papers(stages: int, microbatches: int) -> None:
    for stage in range(stages):
        ours = counted_held(one_forward_one_backward, stage, stages, microbatches)
        assert ours == min(stages - stage, microbatches)
        assert counted_held(gpipe, stage, stages, microbatches) == microbatches


@given(schedule=sampled_from(SCHEDULES), stages=STAGES, microbatches=MICROBATCHES)
def test_what_a_schedule_states_about_memory_is_what_it_does(
    schedule: Schedule, stages: int, microbatches: int
) -> None:
    for stage in range(stages):
        counted = counted_held(schedule, stage, stages, microbatches)
        assert held(schedule, stage, stages, microbatches) == counted


def test_a_schedule_that_states_nothing_is_counted() -> None:
    assert held(lambda *shape: gpipe(*shape), 0, 2, 7) == 7


@given(schedule=sampled_from(SCHEDULES), stages=STAGES, microbatches=MICROBATCHES)
def test_equal_stages_idle_for_stages_minus_one_over_microbatches(
    schedule: Schedule, stages: int, microbatches: int
) -> None:
    computing = Fraction(3 * microbatches)  # a backward takes two forwards
    for end in stage_ends(schedule, stages, microbatches):
        assert (end - computing) / computing <= Fraction(stages - 1, microbatches)
    step = max(stage_ends(schedule, stages, microbatches))
    assert (step - computing) / computing == Fraction(stages - 1, microbatches)


@pytest.mark.parametrize(
    ("name", "schedule"), [("1f1b", one_forward_one_backward), ("gpipe", gpipe)]
)
def test_a_schedule_is_found_by_the_name_that_jobs_use(name: str, schedule: Schedule) -> None:
    assert find("pipeline", name) is schedule


def stage_ends(schedule: Schedule, stages: int, microbatches: int) -> list[Fraction]:
    """Walk all stages' lists, messages taking no time; return when each stage is done."""
    queues = [list(schedule(stage, stages, microbatches)) for stage in range(stages)]
    clocks = [Fraction(0)] * stages
    done: dict[tuple[Kind, int, int], Fraction] = {}
    while any(queues):
        for stage, queue in enumerate(queues):
            if not queue:
                continue
            action = queue[0]
            is_forward = action.kind is Kind.FORWARD
            neighbour = stage - 1 if is_forward else stage + 1
            needed = (action.kind, neighbour, action.microbatch)
            if 0 <= neighbour < stages and needed not in done:
                continue
            queue.pop(0)
            start = max(clocks[stage], done.get(needed, Fraction(0)))
            clocks[stage] = start + (1 if is_forward else 2)
            done[action.kind, stage, action.microbatch] = clocks[stage]
    return clocks
