"""One rank of a training run, in any world: what it holds, and the program over it."""

from __future__ import annotations

from collections.abc import Callable

from antiphon.backend.runs.node_memory import node_checkpoints
from antiphon.backend.stage.stage import TorchStage
from antiphon.backend.stage.tensor_peers import WorldPeers
from antiphon.backend.text.tokens import Tokens
from antiphon.policy.layout.mesh import place_of
from antiphon.policy.pipeline.schedule import find_schedule
from antiphon.policy.recovery.recovery import RecoveryRule
from antiphon.program.node_memory.nodes import Nodes
from antiphon.program.train import Training, World, train
from antiphon.registry import find, own_name
from antiphon.spec.faults import Faults
from antiphon.spec.job import GIVE_UP, Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan
from antiphon.world.protocols import Group


def recovery_rule(settings: Train, faults: Faults | None) -> RecoveryRule | None:
    """Return what decides when members are lost; None: a loss ends the run."""
    if faults is None and own_name("recovery", settings.recovery) == GIVE_UP:
        return None
    rule: RecoveryRule = find("recovery", settings.recovery)()
    return rule


class TrainingRank:
    """Builds the stage of a rank. Its world need not run yet."""

    def __init__(
        self,
        world: World,
        model: Model,
        plan: Plan,
        settings: Train,
        tokens: Tokens,
        *,
        resume_from: str | None = None,
        recovers: bool = False,
        watches_memory: bool = True,
        begun: Callable[[], None] = lambda: None,
        alter: Callable[[TorchStage], TorchStage] = lambda stage: stage,
        nodes: Nodes | None = None,
    ) -> None:
        """``resume_from`` is a checkpoint in the run's store; ``alter`` may replace the stage.

        ``begun`` is called when a step begins. Snapshots are kept in the memory of ``nodes``.
        """
        self._world = world
        place = place_of(plan, world.member)  # a member keeps its part of the model
        schedule = find_schedule(plan.schedule, plan.stages_per_rank)
        self._peers = WorldPeers(world, place.tensor, plan.tensor) if plan.tensor > 1 else None
        self.stage = alter(
            TorchStage(
                model,
                plan,
                settings,
                tokens,
                world.reach,
                place=place,
                schedule=schedule,
                peers=self._peers,
                watches_memory=watches_memory,
                begun=begun,
                regroup=self._regroup,
            )
        )
        self.training = Training(
            plan=plan,
            settings=settings,
            schedule=schedule,
            training_sequences=tokens.sequences("train", settings.sequence_length),
            validation_sequences=tokens.sequences("validation", settings.sequence_length),
            tokens=tokens.digest,
            tied=model.tied_embeddings,
            resume_from=resume_from,
            recovers=recovers,
        )
        self._memory = None
        if nodes is not None:
            self._memory = node_checkpoints(world, self.stage, nodes, settings)

    def _regroup(self, tensor: Group) -> None:
        assert self._peers is not None
        self._peers.group = tensor

    async def train(self) -> None:
        """Train to the last step."""
        await train(self._world, self.stage, self.training, self._memory)
        if self._memory is not None:
            await self._memory.end()
