"""What one rank holds of a model: its stages, gradients in flat buckets, the optimizer, buffers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from antiphon.backend.model.tensor_parallel import Peers, square_norm, sum_replicated
from antiphon.backend.stage.held import COMPUTE_DTYPES, Held, begin_anew, hold
from antiphon.backend.stage.optimizer import adamw, create_state
from antiphon.backend.stage.peak_memory import PeakMemory
from antiphon.backend.stage.snapshot import Snapshots
from antiphon.backend.text.tokens import Split
from antiphon.cost.rank_work import RankWork, rank_work
from antiphon.cost.work import Work, concatenate, copy_work
from antiphon.policy.layout.mesh import Place
from antiphon.policy.pipeline.action import SENDS, Action, Kind
from antiphon.policy.pipeline.one_forward_one_backward import one_forward_one_backward
from antiphon.policy.pipeline.passes import last_microbatches
from antiphon.policy.pipeline.schedule import Schedule
from antiphon.program.buffers import Buffers
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan
from antiphon.world.protocols import Group

PEAK_MEMORY_STEP = 1  # the first whose optimizer state is there from the beginning


class TokenSource(Protocol):
    """Where a stage reads the sequences that it is told to work on."""

    @property
    def tokenizer_path(self) -> Path:
        """A tokenizer.json, which goes into checkpoints."""

    @property
    def end(self) -> int:
        """The token after every document, by which a model says that a text has ended."""

    def batch(
        self, split: Split, indices: Sequence[int], sequence_length: int
    ) -> NDArray[np.int64]:
        """Return tokens (sequences, sequence length + 1)."""


class TorchStage:
    """What a rank holds. See ``antiphon.program.stage.Stage`` for what each method is for."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        settings: Train,
        tokens: TokenSource,
        reach: Callable[[str], None],
        *,
        place: Place = Place(tensor=0, data=0, pipeline=0),  # noqa: B008 - it never changes
        schedule: Schedule = one_forward_one_backward,
        peers: Peers | None = None,
        watches_memory: bool = True,
        begun: Callable[[], None] = lambda: None,
        regroup: Callable[[Group], None] = lambda _group: None,
    ) -> None:
        """``reach`` tells the world that the running computation passed a milestone.

        ``peers`` share the tensors of what is held, where ``plan`` says so, and are told by
        ``regroup`` whom to talk to. One stage of a process may watch its memory, in one early step.
        """
        assert (peers is None) == (plan.tensor == 1)
        self._model = model
        self._plan = plan
        self._tokens = tokens
        self._settings = settings
        self._peers = peers
        self._tensor_rank = place.tensor
        self.held = hold(model, plan, settings, place, schedule, peers, reach)
        self._snapshots = Snapshots(model, plan, place, schedule, self.held, peers)
        held = self.held.values()
        self._flat = [flat for each in held for flat in each.part.buckets.flat]
        (self._loss,) = (
            each.part.buckets.loss for each in held if each.part.buckets.loss is not None
        )
        self.parameters = [p for each in held for p in each.parameters.values()]
        self._optimizer = adamw(self.parameters, settings)
        self._norm_work = concatenate("norm", [each.work.norm for each in held])
        self._update_work = concatenate("update", [each.work.update for each in held])
        self._silent = {stage: _without_milestones(each.work) for stage, each in self.held.items()}
        self._evaluation_works: dict[tuple[int, int], Work] = {}  # by stage, sequences
        self._buffers: Buffers[Tensor] = Buffers(self.held)
        self._totals = torch.zeros(2, dtype=torch.float64)
        self._validation = torch.zeros(2, dtype=torch.float64)
        self._microbatches: Sequence[NDArray[np.int64]] = ()
        self._last_of = partial(last_microbatches, schedule, place.pipeline, plan.pipeline)
        self._last: Mapping[int, int] = {}  # of the step, by stage
        self._split: Split = "train"
        self._global_tokens = 0
        self._begun = begun
        self.regroup = regroup
        self._is_step_new = False  # nothing of it has been computed
        self._files: dict[str, memoryview] = {}
        self._peak = PeakMemory() if watches_memory else None
        self.steps = 0  # done by this process

    @property
    def buckets(self) -> tuple[int, ...]:
        """How many buckets the gradients of each stage are in."""
        return tuple(len(each.part.buckets.flat) for each in self.held.values())

    @property
    def peak_nbytes(self) -> int | None:
        """Most bytes of live tensors in a step; None before it was measured."""
        if self._peak is None or self.steps <= PEAK_MEMORY_STEP:
            return None
        kept = [*self.parameters, *self._flat]
        kept += [t for state in self._optimizer.state.values() for t in state.values()]
        return self._peak.nbytes + sum(tensor.nbytes for tensor in kept)

    def begin(
        self, microbatches: Sequence[NDArray[np.int64]], tokens: int, learning_rate: float
    ) -> None:
        """Set what the next step works on."""
        self._begun()
        self._microbatches = microbatches
        self._last = self._last_of(len(microbatches))
        self._split = "train"
        self._global_tokens = tokens
        self._is_step_new = True
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate

    def begin_evaluation(self, microbatches: Sequence[NDArray[np.int64]]) -> None:
        """Have the forwards up to the next ``begin`` evaluate."""
        self._microbatches = microbatches
        self._split = "validation"

    def work(self, action: Action) -> Work:
        """Return what ``action`` needs; only the last backward completes buckets."""
        match action.kind:
            case Kind.NORM:
                return self._norm_work
            case Kind.UPDATE:
                return self._update_work
        work = self.held[action.stage].work if self._is_last(action) else self._silent[action.stage]
        match action.kind:
            case Kind.FORWARD if self._split == "validation":
                return self._evaluation_work(action)
            case Kind.FORWARD:
                return work.forward
            case Kind.BACKWARD:
                return work.backward
            case Kind.BACKWARD_INPUT:
                return work.backward_input
            case Kind.BACKWARD_WEIGHT:
                return work.backward_weight
        raise AssertionError(f"{action} is no computation")

    def run(self, action: Action) -> Callable[[], None]:
        """Return what carries ``action`` out."""
        match action.kind:
            case Kind.NORM:
                return self._norm
            case Kind.UPDATE:
                return self._update
        held = self.held[action.stage]
        match action.kind:
            case Kind.FORWARD:
                given = None if held.is_first else self._buffers.given(action)
                made = None if held.is_last else self._buffers.make(action, self._empty(action))
                return partial(self._forward, held, action, given, made)
            case Kind.BACKWARD | Kind.BACKWARD_INPUT:
                given = None if held.is_last else self._buffers.given(action)
                made = None if held.is_first else self._buffers.make(action, self._empty(action))
                return partial(self._backward, held, action, given, made)
        assert action.kind is Kind.BACKWARD_WEIGHT
        return partial(self._backward_weight, held, action)

    def gradients(self, bucket: int) -> Tensor:
        """Return the buffer of one bucket; the rank's last one carries the loss."""
        return self._flat[bucket]

    def message(self, action: Action) -> Tensor:
        """Return the buffer that a message takes from, or fills."""
        if action.kind in SENDS:
            return self._buffers.send(action)
        return self._buffers.receive(action, self._empty(action))

    @property
    def totals(self) -> Tensor:
        """(square norm of gradients, loss), float64, of what this rank holds."""
        return self._totals

    @property
    def tied_gradient(self) -> Tensor:
        """The gradient of a tied embedding."""
        name = self._model.embedding_name
        (gradient,) = (
            each.parameters[name].grad for each in self.held.values() if name in each.parameters
        )
        assert gradient is not None
        return gradient

    @property
    def validation(self) -> Tensor:
        """(sum of losses, tokens) of the evaluation, float64."""
        return self._validation

    def read(self, name: str) -> float:
        """Return a figure of the last step, or the validation loss, which it clears."""
        match name:
            case "loss":
                return self._totals[1].item()
            case "gradient_norm":
                return self._totals[0].sqrt().item()
            case "validation_loss":
                total, tokens = self._validation.tolist()
                self._validation.zero_()
                return float(total / tokens)
        raise KeyError(name)

    def snapshot(self) -> tuple[Work, Callable[[], None]]:
        """Copy parameters and optimizer state into the files of a checkpoint."""

        def run() -> None:
            if not self._optimizer.state:  # before the first step
                create_state(self._optimizer, self.parameters)
            tokenizer_json = self._tokens.tokenizer_path.read_bytes()
            files = self._snapshots.take(self._optimizer.state, tokenizer_json, self._tokens.end)
            self._files = {name: memoryview(content) for name, content in files.items()}

        return self._snapshots.work(), run

    def files(self) -> Mapping[str, memoryview]:
        """Return what this rank has of the last snapshot."""
        return self._files

    def restore(
        self, files: Mapping[str, memoryview], digests: Mapping[str, str]
    ) -> tuple[Work, Callable[[], None]]:
        """Put a snapshot back, having checked that it is whole."""

        def run() -> None:
            create_state(self._optimizer, self.parameters)
            self._snapshots.put_back(self._optimizer.state, files, digests)

        return replace(self._update_work, name="restore"), run

    def initialise(self) -> tuple[Work, Callable[[], None]]:
        """Make the parameters again that a run begins with, and forget the optimizer's state."""

        def run() -> None:
            begin_anew(self.held, self._model, self._plan, self._settings, self._tensor_rank)
            self._optimizer.state.clear()

        return replace(self._update_work, name="initialise"), run

    def drop(self) -> tuple[Work, Callable[[], None]]:
        """Free the activations and messages of a step that was broken off."""

        def run() -> None:
            self._buffers.clear()
            self._validation.zero_()
            for each in self.held.values():
                each.part.drop()
            if self._peak is not None:
                self._peak.stop()

        return copy_work("drop", 0.0), run

    def _forward(
        self, held: Held, action: Action, given: Tensor | None, made: Tensor | None
    ) -> None:
        self._begin_step()
        inputs, targets = self._batch(action)
        given = inputs if given is None else given
        if self._split == "validation":
            total = held.part.evaluate(given, targets if held.is_last else None, made)
            if total is not None and self._tensor_rank == 0:  # its peers have the same
                counted = [total.item(), targets.numel()]
                self._validation += torch.tensor(counted, dtype=torch.float64)
            return
        loss = held.part.forward(
            action.microbatch, given, targets if held.is_last else None, self._global_tokens, made
        )
        if loss is not None:
            self._loss.add_(loss)

    def _backward(
        self, held: Held, action: Action, given: Tensor | None, made: Tensor | None
    ) -> None:
        if action.kind is Kind.BACKWARD_INPUT:
            held.part.backward_input(action.microbatch, given, made)
        else:
            held.part.backward(action.microbatch, given, made, self._is_last(action))

    def _backward_weight(self, held: Held, action: Action) -> None:
        held.part.backward_weight(action.microbatch, self._is_last(action))

    def _norm(self) -> None:
        """Fill ``totals``, counting once what several ranks of a replica hold."""
        if self._peers is None:
            counted = [g for each in self.held.values() for g in _gradients(each.counted).values()]
            square = nn.utils.get_total_norm(counted).double().square()
        else:
            square = torch.zeros((), dtype=torch.float64)
            for each in self.held.values():
                sum_replicated(_gradients(each.parameters), self._peers)
                square += square_norm(_gradients(each.counted), self._peers.rank)
        self._totals[0] = square
        self._totals[1] = self._loss if self._tensor_rank == 0 else 0.0  # its peers have the same

    def _update(self) -> None:
        norm = self._totals[0].sqrt().to(self.parameters[0].dtype)
        nn.utils.clip_grads_with_norm_(self.parameters, self._settings.clip_norm, norm)
        self._optimizer.step()
        if self._peak is not None:
            self._peak.stop()
        self.steps += 1

    def _begin_step(self) -> None:
        """Before the first forward of a training step: there are no gradients yet."""
        if self._is_step_new:
            self._is_step_new = False
            if self._peak is not None and self.steps == PEAK_MEMORY_STEP:
                self._peak.__enter__()
            for flat in self._flat:
                flat.zero_()

    def _is_last(self, action: Action) -> bool:
        return action.microbatch == self._last.get(action.stage)

    def _batch(self, action: Action) -> tuple[Tensor, Tensor]:
        sequences = self._microbatches[action.microbatch].tolist()
        length = self._settings.sequence_length
        tokens = torch.from_numpy(self._tokens.batch(self._split, sequences, length))
        return tokens[:, :-1], tokens[:, 1:]

    def _empty(self, action: Action) -> Tensor:
        """Room for hidden states of a micro-batch."""
        transformer = self.held[action.stage].part.transformer
        sequences = len(self._microbatches[action.microbatch])
        shape = transformer.hidden_shape(sequences, self._settings.sequence_length)
        return torch.empty(shape, dtype=COMPUTE_DTYPES[self._plan.precision])

    def _evaluation_work(self, action: Action) -> Work:
        """What the forward of a micro-batch needs, which may be smaller than others."""
        key = action.stage, len(self._microbatches[action.microbatch])
        if key not in self._evaluation_works:
            plan = self._plan.model_copy(update={"micro_batch": key[1]})
            layers = self.held[action.stage].layers
            work = rank_work(self._model, plan, self._settings, (), layers).evaluate
            self._evaluation_works[key] = work
        return self._evaluation_works[key]


def _without_milestones(work: RankWork) -> RankWork:
    return replace(
        work,
        backward=replace(work.backward, milestones=()),
        backward_weight=replace(work.backward_weight, milestones=()),
    )


def _gradients(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
