"""Lanes of one rank, and what slows what is computed on the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antiphon.world.failure import ActionCancelled
from antiphon.world.protocols import Message
from antiphon.world.simulated.log import Did
from antiphon.world.simulated.world import Simulation, SimWorld

from .conftest import MadeUpPrices, Payload, work

Simulate = Callable[..., tuple[Simulation, dict[int, Any]]]


def test_computations_of_two_lanes_go_on_at_once(simulate: Simulate) -> None:
    async def program(world: SimWorld) -> list[float]:
        long = world.compute(work(50))
        short = [world.compute(work(20), lane="additions") for _ in range(2)]
        times = []
        for computation in (*short, long):
            await computation
            times.append(world.now())
        return times

    _, results = simulate(program)
    assert results[0] == [20e-9, 40e-9, 50e-9]


def contended(prices: MadeUpPrices, *, messages_contend: bool) -> float:
    """Return when a computation of 100 ns ends beside a message of 40."""
    prices.message_nanoseconds = 40
    prices.contention = 0.25
    simulation = Simulation(prices, 2)
    if messages_contend:
        simulation.exchanges.contend = lambda rank, begin, end: simulation.worlds[
            rank
        ].lane.contend(begin, end)

    async def program(world: SimWorld) -> float:
        message = [Message(1 - world.rank, "c", Payload())]
        computation = world.compute(work(100))
        sent = world.exchange(*((message, []) if world.rank == 0 else ([], message)))
        await computation
        computed = world.now()
        await sent
        return computed

    results = simulation.run(dict.fromkeys(range(2), program))
    assert results[0] == results[1]
    return results[0]


def test_messages_slow_both_ends_where_they_are_said_to(prices: MadeUpPrices) -> None:
    assert contended(prices, messages_contend=False) == 100e-9
    assert contended(prices, messages_contend=True) == 110e-9


def test_who_waits_for_a_milestone_of_a_cancelled_computation_is_told_at_once(
    simulate: Simulate,
) -> None:
    async def program(world: SimWorld) -> float:
        computation = world.compute(work(10, (5, "half")))
        computation.cancel()
        with pytest.raises(ActionCancelled):
            await computation.milestone("half")
        told = world.now()
        await world.sleep(100e-9)
        return told

    async def other(world: SimWorld) -> None:
        await world.sleep(30e-9)

    _, results = simulate(program, other)
    assert results[0] == 0
    _, results = simulate(program)
    assert results[0] == 0


def test_a_cancelled_computation_is_left_out_unless_it_has_begun(
    simulate: Simulate,
) -> None:
    async def program(world: SimWorld) -> float:
        group = await world.group([0])
        begun = world.compute(work(10))
        await world.sleep(0)
        queued = world.compute(work(1000, (500, "half")))
        tied = world.all_reduce(group, Payload(), after=queued.milestone("half"))
        at_once = world.compute(work(1000))
        last = world.compute(work(7))
        for computation in (begun, queued, at_once):
            computation.cancel()
        await last
        for handle in (begun, queued, tied, at_once):
            assert isinstance(handle.error, ActionCancelled)
        return world.now()

    simulation, results = simulate(program)
    assert results[0] == 17e-9
    assert [row[1] for row in simulation.log.entries().tolist() if row[4] == Did.COMPUTE] == [
        10,
        17,
    ]
