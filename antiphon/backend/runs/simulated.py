"""Training in the simulated world with real math: the ranks of one plan, all in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from antiphon.backend.runs.measured import Measured
from antiphon.backend.runs.rank import TrainingRank, recovery_rule
from antiphon.backend.stage.stage import TorchStage
from antiphon.backend.text.tokens import Tokens
from antiphon.policy.recovery.recovery import RecoveryRule
from antiphon.program.recover import Progress
from antiphon.program.step import groups_of, join_tensor_peers
from antiphon.program.train import Steps
from antiphon.simulation.simulated_plan import Ran
from antiphon.spec.faults import Faults
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan
from antiphon.world.protocols import Store
from antiphon.world.random import keyed_generator
from antiphon.world.simulated.prices import Prices
from antiphon.world.simulated.world import OnNote, Simulation, SimWorld

T = TypeVar("T")
Alter = Callable[[int, TorchStage], TorchStage]  # (rank, its stage)


class TorchIsolation:
    """Gives each rank torch's default generator in a state of its own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._of_ranks: dict[int, Tensor] = {}
        self._outside: Tensor | None = None  # while a run goes on

    def call(self, run: Callable[[], T]) -> T:
        """Record gradients and cast nothing, whatever the thread did before."""
        with torch.enable_grad(), torch.autocast("cpu", enabled=False):
            return run()

    def enter(self, rank: int) -> None:
        """Put the rank's state in the place of the process's."""
        assert self._outside is None
        self._outside = torch.get_rng_state()
        if rank not in self._of_ranks:
            seed = keyed_generator(self._seed, "torch", rank).integers(2**63)
            self._of_ranks[rank] = torch.Generator().manual_seed(int(seed)).get_state()
        torch.set_rng_state(self._of_ranks[rank])

    def leave(self, rank: int) -> None:
        """Keep the rank's state and put the process's back."""
        assert self._outside is not None
        self._of_ranks[rank] = torch.get_rng_state()
        torch.set_rng_state(self._outside)
        self._outside = None

    def forget(self, rank: int) -> None:
        """Drop the rank's state."""
        self._of_ranks.pop(rank, None)


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated run left."""

    ran: Ran
    measured: Measured = field(default_factory=Measured)  # seconds are simulated


def simulate_training(
    model: Model,
    plan: Plan,
    settings: Train,
    tokens: Tokens,
    prices: Prices,
    *,
    store: Store | None = None,
    resume_from: str | None = None,
    on_note: OnNote | None = None,
    alter: Alter = lambda _rank, stage: stage,
    faults: Faults | None = None,
) -> Simulated:
    """Train to the last step, validation and checkpoints included, on all ranks of ``plan``.

    ``store`` is the run's (None: one in memory). ``faults`` are carried out, and the job's recovery
    rule decides on losses. Raises RunError where the program cannot end, GaveUp where the rule ends
    it.
    """
    run = _Run(plan, settings, prices, store, on_note, faults, recovery_rule(settings, faults))

    def program(world: SimWorld) -> Any:
        return TrainingRank(
            world,
            model,
            plan,
            settings,
            tokens,
            resume_from=resume_from,
            recovers=run.recovers,
            watches_memory=False,
            alter=lambda stage: alter(world.member, stage),
        ).train()

    return run.carry_out(program)


def simulate_steps(
    model: Model,
    plan: Plan,
    settings: Train,
    tokens: Tokens,
    prices: Prices,
    *,
    steps: int,
    keep_arrows: bool = False,
    on_note: OnNote | None = None,
) -> Simulated:
    """Carry out the first ``steps`` of the training and nothing else.

    These are the actions that ``SimulatedPlan.run`` charges: its event log has the same hash.
    """
    run = _Run(plan, settings, prices, None, on_note)
    if keep_arrows:
        run.simulation.exchanges.arrows = []

    async def program(world: SimWorld) -> None:
        of = TrainingRank(world, model, plan, settings, tokens, watches_memory=False)
        await join_tensor_peers(world, plan, of.stage)
        groups = await groups_of(world, plan, of.training.schedule, model.tied_embeddings)
        taken = Steps(world, groups, of.stage, of.training)
        progress = Progress()
        while progress.position.step < steps:
            await taken.take(progress)
            run.ends[world.rank].append(run.simulation.queue.now)

    return run.carry_out(program)


class _Run:
    """One simulation and what it is watched for."""

    def __init__(
        self,
        plan: Plan,
        settings: Train,
        prices: Prices,
        store: Store | None,
        on_note: OnNote | None,
        faults: Faults | None = None,
        rule: RecoveryRule | None = None,
    ) -> None:
        self.recovers = rule is not None
        self._plan = plan
        self._measured = Measured()
        self._on_note = on_note
        self.ends: dict[int, list[int]] = {rank: [] for rank in range(plan.ranks)}
        self.simulation = Simulation(
            prices,
            plan.ranks,
            seed=settings.seed,
            on_note=self._heed,
            isolation=TorchIsolation(settings.seed),
            stores={} if store is None else {"run": store},
            faults=faults,
            recover=rule,
            axes=plan.axes,
        )

    def carry_out(self, program: Callable[[SimWorld], Any]) -> Simulated:
        """Run the program of every rank to its end."""
        simulation = self.simulation
        with _threads(self._plan.threads or 1):
            simulation.run(dict.fromkeys(simulation.simulated, program))
        arrows = simulation.exchanges.arrows or []
        return Simulated(Ran(simulation.log, self.ends, arrows), self._measured)

    def _heed(self, topic: str, rank: int, facts: dict[str, Any]) -> None:
        if self.recovers:
            self._measured.take_of_any(topic, rank, facts)
        elif rank == 0:
            self._measured.take(topic, facts)
        if self._on_note is not None:
            self._on_note(topic, rank, facts)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute on as many threads as a rank of the plan does: bits depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
