"""Links that are slow or cut, and what becomes of those who cannot reach each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from antiphon.world.failure import GroupBroken
from antiphon.world.protocols import Message
from antiphon.world.random import keyed_generator
from antiphon.world.simulated.world import SimWorld

from .conftest import MadeUpPrices, Payload
from .recovering import STEPS, Shrink, adding, alone, crash, fault, run_both, simulation_of

SEED = 11  # for which the fault by rate below overlaps with itself


async def posting(world: SimWorld) -> list[float]:
    """A letter and an exchange from 0 to 1, every 100 ns; when each came."""
    came = []
    for _ in range(4):
        began = world.now()
        message = [Message(1 - world.rank, "exchange", Payload())]
        if world.member == 0:
            world.send(1, "mail")
            await world.exchange(message, [])
        else:
            await world.receive("mail")
            came.append(round(world.now() * 1e9))
            await world.exchange([], message)
            came.append(round(world.now() * 1e9))
        await world.sleep(max(0.0, began + 100e-9 - world.now()))
    return came


def test_a_slow_link_makes_messages_take_longer_while_it_is_slow() -> None:
    slow = fault("slow-link", 90, 100, link=(1, 0), factor=4.0)
    results = run_both(simulation_of(2, slow, isolation=None), posting)
    assert results[1] == [10, 20, 140, 180, 210, 220, 310, 320]


def test_a_link_is_slow_until_the_last_of_two_that_overlap_is_over() -> None:
    """They are one fault, by rate."""
    again = {"mean_seconds": 20e-6, "for_seconds": 5e-6}
    slow = fault("slow-link", link=(1, 0), factor=4.0, **again)

    async def program(world: SimWorld) -> list[int]:
        taken = []
        for _ in range(60):
            began = world.now()
            if world.member == 0:
                await world.send(1, "mail")
                taken.append(round((world.now() - began) * 1e9))
            await world.sleep(began + 1e-6 - world.now())
        return taken

    results = run_both(alone(slow, seed=SEED), program)
    begins = np.cumsum(keyed_generator(SEED, "fault", 0).exponential(20.0, 60))
    slowed = [bool(np.any((begins <= at) & (at < begins + 5.0))) for at in range(60)]
    assert np.any(np.diff(begins[begins < 60]) < 5.0)
    assert results[0] == [40 if is_slow else 10 for is_slow in slowed]


def test_messages_wait_while_a_link_is_cut() -> None:
    cut = fault("cut-link", 105, 150, link=(0, 1))
    results = run_both(simulation_of(2, cut, isolation=None), posting)
    # the second letter had 5 ns left when the link was cut
    assert results[1][:4] == [10, 20, 260, 270]


def test_a_cut_link_concerns_its_ends_alone() -> None:
    async def program(world: SimWorld) -> list[float]:
        world.send((world.member + 1) % 3, "c")
        await world.receive("c")
        return round(world.now() * 1e9)  # type: ignore[return-value]

    simulation = alone(fault("cut-link", 0, 500, link=(0, 1)), members=3)
    assert run_both(simulation, program) == {0: 10, 1: 510, 2: 10}


def test_a_partition_keeps_its_sides_apart_until_it_is_healed() -> None:
    async def program(world: SimWorld) -> dict[int, int]:
        for target in range(world.members):
            world.send(target, "c")
        letters = [((await world.receive("c")).source, round(world.now() * 1e9)) for _ in range(4)]
        return dict(letters)

    results = run_both(alone(fault("partition", 5, 300, members=(0, 1)), members=4), program)
    for member, came in results.items():
        same_side = {each for each in range(4) if (each < 2) == (member < 2)} - {member}
        assert {each: came[each] for each in same_side} == dict.fromkeys(same_side, 10)
        assert {at for each, at in came.items() if (each < 2) != (member < 2)} == {310}


@settings(deadline=None, max_examples=40)
@given(
    cuts=lists(integers(0, 400), min_size=2, max_size=6, unique=True),
    costs=lists(integers(0, 60), min_size=1, max_size=6),
)
def test_letters_keep_their_order_whatever_is_cut(cuts: list[int], costs: list[int]) -> None:
    class Costs(MadeUpPrices):
        def message(self, source: int, target: int, nbytes: int) -> int:
            return costs[nbytes % len(costs)]

    edges = sorted(cuts)
    faults = [
        fault("cut-link", begin, end - begin, link=(0, 1))
        for begin, end in zip(edges[::2], edges[1::2], strict=False)
    ]

    async def program(world: SimWorld) -> list[Any]:
        if world.member == 0:
            for number in range(12):
                world.send(1, "c", {"number": number}, [Payload(number)])
                await world.sleep(30e-9)
            return []
        return [(await world.receive("c")).facts["number"] for _ in range(12)]

    simulation = alone(*faults)
    simulation.mail._prices = Costs()
    assert run_both(simulation, program)[1] == list(range(12))


def test_a_collective_over_a_link_that_stays_cut_ends_in_a_verdict_on_the_higher_rank() -> None:
    simulation = simulation_of(3, fault("cut-link", 0, link=(0, 2)), recover=Shrink())
    results = run_both(simulation, adding)
    assert list(results) == [0, 1]
    (at,) = [at for at, event, member in simulation.events if (event, member) == ("crash", 2)]
    assert at == 0 + 2000  # the timeout, from when the first of them was held up


def test_a_partition_that_stays_ends_in_a_verdict_on_the_smaller_side() -> None:
    cut = fault("partition", 130, members=(0,))
    simulation = simulation_of(3, cut, recover=Shrink())
    assert list(run_both(simulation, adding)) == [1, 2]


def test_a_partition_that_heals_in_time_loses_nobody() -> None:
    simulation = simulation_of(3, fault("partition", 130, 1900, members=(0,)), recover=Shrink())
    assert list(run_both(simulation, adding).values()) == [float(STEPS)] * 3
    assert simulation.outcome == "finished"


@pytest.mark.parametrize("cut_at", [50, 150], ids=["cut-first", "crash-first"])
def test_nobody_is_cut_off_from_the_dead(cut_at: int) -> None:
    """A message of a dead member, held up by a cut link, is no reason for a verdict."""

    async def program(world: SimWorld) -> int:
        message = [Message(1 - world.rank, "c", Payload())]
        try:
            if world.rank == 2:
                await world.sleep(5000e-9)  # the mesh stays broken for longer than the timeout
            else:
                await world.exchange(*((message, []) if world.rank == 0 else ([], message)))
        except GroupBroken:
            pass
        await world.reform()
        return world.ranks

    prices = MadeUpPrices(message_nanoseconds=500)
    for seed in range(10):
        faults = crash(0, 100), fault("cut-link", cut_at, link=(0, 1))
        simulation = simulation_of(
            3, *faults, recover=Shrink(), isolation=None, seed=seed, prices=prices
        )
        assert run_both(simulation, program) == {1: 2, 2: 2}
        assert [each for each in simulation.events if each[1] == "crash"] == [(100, "crash", 0)]


def test_of_an_exchange_with_several_a_cut_link_holds_up_its_own_part() -> None:
    async def program(world: SimWorld) -> int:
        messages = [Message(peer, "c", Payload()) for peer in ((0, 2) if world.rank == 1 else (1,))]
        await world.exchange(messages, messages)
        return round(world.now() * 1e9)

    cut = fault("cut-link", 5, 100, link=(0, 1))
    simulation = simulation_of(3, cut, recover=Shrink(), isolation=None)
    assert run_both(simulation, program) == {0: 110, 1: 110, 2: 10}


def test_a_broken_mesh_is_told_of_a_link_that_stays_cut_while_it_exchanges() -> None:
    async def program(world: SimWorld) -> str:
        message = [Message(1 - world.rank, "c", Payload())]
        try:
            await (world.exchange(message, []) if world.rank == 0 else world.exchange([], message))
        except GroupBroken as broken:
            assert broken.suspects == (1,)  # noqa: PT017 - of a rank
            return "broken"
        return "done"

    simulation = simulation_of(2, fault("cut-link", 0, link=(0, 1)), isolation=None)
    assert run_both(simulation, program) == {0: "broken"}


def test_who_writes_to_one_that_is_dead_behind_a_cut_learns_of_it_and_waits_no_more() -> None:
    async def program(world: SimWorld) -> int:
        if world.member == 0:
            await world.send(1, "c")
            return round(world.now() * 1e9)
        await world.receive("never")
        return 0

    cut = fault("cut-link", 0, link=(0, 1))
    simulation = alone(cut, fault("crash", 500, member=1))
    told = run_both(simulation, program)[0]
    died = 500 + 300
    assert died <= told <= died + 40


def test_two_of_one_mesh_that_cannot_write_to_each_other_are_cut_off() -> None:
    """As those who cannot exchange messages; whoever is beside the mesh is not."""

    async def program(world: SimWorld) -> None:
        if world.member == 0:
            await world.send(2, "c")
        elif world.member == 2:
            await world.receive("c", 0)

    cut = fault("cut-link", 0, 5000, link=(0, 2))
    for together, crashes in (((0, 1, 2), [(2000, "crash", 2)]), ((0, 1), [])):
        simulation = simulation_of(3, cut, together=together, isolation=None)
        run_both(simulation, program)
        assert [each for each in simulation.events if each[1] == "crash"] == crashes
