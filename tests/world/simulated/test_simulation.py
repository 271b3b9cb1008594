"""What programs may rely on in the simulated world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from antiphon.errors import RunError
from antiphon.world.protocols import Message
from antiphon.world.simulated.log import Did, Entry
from antiphon.world.simulated.world import Simulation, SimWorld

from .conftest import MadeUpPrices, Payload, work

Simulate = Callable[..., tuple[Simulation, dict[int, Any]]]


def send(peer: int, channel: str = "c", nbytes: int = 8) -> tuple[list[Message], list[Message]]:
    return [Message(peer, channel, Payload(nbytes))], []


def receive(peer: int, channel: str = "c", nbytes: int = 8) -> tuple[list[Message], list[Message]]:
    return [], [Message(peer, channel, Payload(nbytes))]


def entries(simulation: Simulation) -> list[Entry]:
    return [Entry(*row) for row in simulation.log.entries().tolist()]


def test_computations_of_a_rank_go_one_after_another_and_nothing_is_run(simulate: Simulate) -> None:
    def never() -> None:
        raise AssertionError

    async def program(world: SimWorld) -> float:
        first, second = world.compute(work(30), never), world.compute(work(12), never)
        await second
        assert first.is_settled
        return world.now()

    _, results = simulate(program)
    assert results[0] == 42e-9


def test_a_collective_tied_to_a_milestone_begins_inside_the_computation(
    simulate: Simulate,
) -> None:
    async def program(world: SimWorld) -> tuple[float, float]:
        group = await world.group([0])
        computation = world.compute(work(50, (20, "half")))
        tied = world.all_reduce(group, Payload(), after=computation.milestone("half"))
        await computation
        computed = world.now()
        await tied
        return computed, world.now()

    simulation, results = simulate(program)
    assert results[0] == (50e-9, 120e-9)
    (reduction,) = [entry for entry in entries(simulation) if entry.did == Did.ALL_REDUCE]
    assert (reduction.begin, reduction.end) == (20, 120)


def test_a_collective_waits_for_the_last_member_and_ends_for_all_at_once(
    simulate: Simulate,
) -> None:
    def program(nanoseconds: int) -> Any:
        async def of(world: SimWorld) -> float:
            group = await world.group([0, 1, 2])
            await world.compute(work(nanoseconds))
            await world.all_reduce(group, Payload())
            return world.now()

        return of

    _, results = simulate(program(5), program(70), program(30))
    assert set(results.values()) == {170e-9}


def test_collectives_of_a_group_keep_the_order_in_which_they_were_issued(
    simulate: Simulate,
) -> None:
    """The second is ready long before the first; it waits all the same."""

    async def program(world: SimWorld) -> list[float]:
        group = await world.group([0, 1])
        computation = world.compute(work(1000))
        first = world.all_reduce(group, Payload(1), after=computation)
        second = world.all_reduce(group, Payload(2))
        await second
        assert first.is_settled
        return world.now()

    _, results = simulate(program, program)
    assert set(results.values()) == {1200e-9}


def test_members_that_issue_different_collectives_are_told(simulate: Simulate) -> None:
    def program(nbytes: int) -> Any:
        async def of(world: SimWorld) -> None:
            await world.all_reduce(await world.group([0, 1], "gradients"), Payload(nbytes))

        return of

    with pytest.raises(RunError, match=r"`gradients`.*rank 0 .*4 bytes.*rank 1 .*8 bytes"):
        simulate(program(4), program(8))


def test_a_message_goes_when_both_ends_are_posted_and_it_is_made(simulate: Simulate) -> None:
    async def sender(world: SimWorld) -> float:
        made = world.compute(work(100))
        await world.exchange(*send(1), after=made)
        return world.now()

    async def receiver(world: SimWorld) -> float:
        await world.compute(work(40))
        await world.exchange(*receive(0))
        return world.now()

    simulation, results = simulate(sender, receiver)
    assert set(results.values()) == {110e-9}
    assert [(e.begin, e.end) for e in entries(simulation) if e.did == Did.EXCHANGE] == [
        (100, 110)
    ] * 2


def test_messages_of_a_channel_follow_one_another_and_other_channels_do_not_wait(
    simulate: Simulate,
) -> None:
    async def sender(world: SimWorld) -> None:
        posted = [world.exchange(*send(1, name)) for name in ("a", "a", "b")]
        for each in posted:
            await each

    async def receiver(world: SimWorld) -> list[float]:
        posted = [world.exchange(*receive(0, name)) for name in ("a", "a", "b")]
        await posted[2]
        times = [world.now()]
        await posted[1]
        return [*times, world.now()]

    _, results = simulate(sender, receiver)
    assert results[1] == [10e-9, 20e-9]


def test_opposite_messages_of_one_exchange_go_at_once(simulate: Simulate) -> None:
    def program(peer: int) -> Any:
        async def of(world: SimWorld) -> float:
            await world.exchange(send(peer)[0], receive(peer)[1])
            return world.now()

        return of

    _, results = simulate(program(1), program(0))
    assert set(results.values()) == {10e-9}


def test_which_end_of_a_message_goes_on_first_follows_the_seed(simulate: Simulate) -> None:
    went_on: list[int] = []

    def program(exchange: Any) -> Any:
        async def of(world: SimWorld) -> None:
            await world.exchange(*exchange)
            went_on.append(world.rank)

        return of

    for seed in range(200):
        simulate(program(send(1)), program(receive(0)), seed=seed)
    assert 60 < sum(went_on[::2]) < 140


def test_a_rank_may_exchange_with_several_at_once(simulate: Simulate) -> None:
    async def middle(world: SimWorld) -> float:
        both = [Message(peer, "c", Payload()) for peer in (0, 2)]
        await world.exchange(both, both)
        return world.now()

    async def end(world: SimWorld) -> float:
        await world.compute(work(5 * (world.rank + 1)))
        await world.exchange(send(1)[0], receive(1)[1])
        return world.now()

    simulation, results = simulate(end, middle, end)
    assert results == {0: 15e-9, 1: 25e-9, 2: 25e-9}
    exchanges = {e.rank: (e.begin, e.end) for e in entries(simulation) if e.did == Did.EXCHANGE}
    assert exchanges == {0: (5, 15), 1: (5, 25), 2: (15, 25)}


def test_posts_that_do_not_meet_name_both_ends(simulate: Simulate) -> None:
    """What two ranks post in plain order, each sending first, is refused at once."""

    def program(peer: int) -> Any:
        async def of(world: SimWorld) -> None:
            world.exchange(*send(peer))
            await world.exchange(*receive(peer))

        return of

    with pytest.raises(RunError) as raised:
        simulate(program(1), program(0))
    assert "rank 0 sends to 1 (8 bytes) on `c`, its post 1 there" in str(raised.value)
    assert "rank 1 sends to 0 (8 bytes) on `c`, its post 1 there" in str(raised.value)


def test_a_deadlock_names_who_waits_for_what(simulate: Simulate) -> None:
    async def waits(world: SimWorld) -> None:
        await world.compute(work(7))
        await world.exchange(*receive(1, "pipeline"))

    async def reduces(world: SimWorld) -> None:
        await world.all_reduce(await world.group([0, 1], "gradients"), Payload())

    with pytest.raises(RunError) as raised:
        simulate(waits, reduces)
    message = str(raised.value)
    assert "deadlock at 0.000000007 s" in message
    assert "rank 0 receives from 1 (8 bytes) on `pipeline`, its post 1 there" in message
    assert "rank 1 waits in all_reduce of 8 bytes of group `gradients` for ranks [0]" in message


def test_what_a_program_raises_ends_the_simulation(simulate: Simulate) -> None:
    async def fails(world: SimWorld) -> None:
        await world.compute(work(1))
        raise KeyError("mine")

    async def waits(world: SimWorld) -> None:
        await world.exchange(*receive(0))

    with pytest.raises(KeyError, match="mine"):
        simulate(fails, waits)


def test_a_collective_beside_a_computation_delays_it_by_the_contention(
    simulate: Simulate, prices: MadeUpPrices
) -> None:
    prices.contention = 0.25

    async def program(world: SimWorld) -> float:
        group = await world.group([0])
        computation = world.compute(work(400, (100, "early")))
        world.all_reduce(group, Payload(), after=computation.milestone("early"))
        await computation
        return world.now()

    _, results = simulate(program)
    assert results[0] == 425e-9


async def tied_ranks(world: SimWorld) -> None:
    """Every rank does the same at the same times."""
    group = await world.group(range(world.ranks))
    for _ in range(5):
        await world.compute(work(10))
        await world.all_reduce(group, Payload())


def test_a_seed_repeats_the_log_and_another_orders_what_is_simultaneous_anew(
    simulate: Simulate,
) -> None:
    hashes = [simulate(*[tied_ranks] * 6, seed=seed)[0].log.hash() for seed in (3, 3, 4)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


def test_randomness_is_the_same_on_every_rank_and_follows_the_seed(simulate: Simulate) -> None:
    async def program(world: SimWorld) -> float:
        return float(world.random("samples", 1).random())

    drawn = [simulate(program, program, seed=seed)[1] for seed in (1, 2)]
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]


def test_files_are_kept_renamed_and_removed(simulate: Simulate) -> None:
    async def program(world: SimWorld) -> tuple[str, ...]:
        store = world.store("run")
        await store.put("new/a", memoryview(b"text"))
        await store.put("new/b", Payload(3))
        await store.rename("new", "old")
        assert bytes(await store.get("old/a")) == b"text"
        assert len(await store.get("old/b")) == 3
        await store.remove("old/a")
        with pytest.raises(FileNotFoundError):
            await store.get("old/a")
        return await store.list("old")

    _, results = simulate(program)
    assert results[0] == ("b",)
