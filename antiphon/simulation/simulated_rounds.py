"""Rounds in the simulated world: a server and its workers, charged or with real math on NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.cost.price import Priced, nanoseconds
from antiphon.cost.work import Operation, Work
from antiphon.policy.recovery.recovery import Outcome
from antiphon.program.learner.learner import Learner
from antiphon.program.rounds.rounds import Ended, Rounds, Watch, serve_rounds
from antiphon.program.rounds.worker import Worked, work_in_rounds
from antiphon.simulation.isolation import NoIsolation
from antiphon.spec.faults import Faults
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.world import Simulation, SimWorld

WORKERS_PATIENCE = 10.0
"""Times the server's: a round may have many answers, each of which it waits for."""
SERVER = 0
"""The member that serves; workers are the others, in order."""


@dataclass(frozen=True, slots=True)
class RoundPrices:
    """Every computation takes the same and something for each flop; messages likewise."""

    computation_seconds: float = 0.0
    flops_per_second: float = 1.0
    message_seconds: float = 0.0
    bytes_per_second: float = float("inf")
    contention: float = 0.0

    def computation(self, work: Work) -> Priced:
        """Return what a computation takes; one without flops takes nothing."""
        flops = float(work.flops[0])
        if flops == 0:
            return Priced(0, ())
        return Priced(nanoseconds(self.computation_seconds + flops / self.flops_per_second), ())

    def message(self, source: int, target: int, nbytes: int) -> int:  # noqa: ARG002 - all alike
        """Return what a message takes."""
        return nanoseconds(self.message_seconds + nbytes / self.bytes_per_second)

    def collective(
        self, operation: Operation, members: tuple[int, ...], nbytes: int
    ) -> int:  # pragma: no cover
        """There are none."""
        raise AssertionError(f"{operation} of {members} ({nbytes} bytes): rounds have mail only")


@dataclass(frozen=True, slots=True)
class SimulatedRounds:
    """How a run went."""

    ended: Ended | None  # None: the server was lost for good
    workers: Mapping[int, Worked]  # of those that were not lost for good
    simulation: Simulation

    @property
    def outcome(self) -> Outcome:
        """As the server saw it; and recovered where it never came to know of a loss."""
        if self.ended is None:
            return "reported"
        ended = self.ended.outcome
        return self.simulation.outcome if ended == "finished" else ended

    @property
    def reason(self) -> str:
        """Why it did not come to its end."""
        return "the server was lost" if self.ended is None else self.ended.reason


def simulate_rounds(
    rounds: Rounds,
    learner: Learner,
    workers: int,
    prices: Prices,
    *,
    seed: int = 0,
    lanes: int = 1,
    faults: Faults = Faults(),  # noqa: B008 - it never changes
    is_charged: bool = False,
    watch: Watch | None = None,
) -> SimulatedRounds:
    """Carry ``rounds`` out with so many workers, each of up to ``lanes`` tasks at once."""

    async def serve(world: SimWorld) -> Ended:
        return await serve_rounds(world, learner, rounds, watch)

    async def work(world: SimWorld) -> Worked:
        patience = WORKERS_PATIENCE * rounds.patience_seconds
        return await work_in_rounds(
            world, learner, server=SERVER, lanes=lanes, patience_seconds=patience
        )

    simulation = Simulation(
        prices,
        workers + 1,
        seed=seed,
        together=(),
        isolation=None if is_charged else NoIsolation(),
        faults=faults,
    )
    programs: dict[int, Any] = dict.fromkeys(range(1, workers + 1), work)
    results: dict[int, Any] = simulation.run({SERVER: serve, **programs})
    return SimulatedRounds(results.pop(SERVER, None), results, simulation)
