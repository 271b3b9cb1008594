"""What the training program asks of the model that a rank holds. The backend implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.work import Work
from antiphon.policy.pipeline.action import Action
from antiphon.world.protocols import Payload


class Stage(Protocol):
    """One rank's part of the model, with its gradients, its optimizer and its buffers.

    Buffers are made once, and collectives work on them in place. ``run`` and its like return what
    the device is to carry out, or None in a world where nothing is computed.
    """

    @property
    def buckets(self) -> int:
        """How many buckets of gradients are reduced; backward's milestones are ``bucket 0``, ..."""

    def begin(
        self, microbatches: Sequence[NDArray[np.int64]], tokens: int, learning_rate: float
    ) -> None:
        """Set what the next step works on: the sequences of each of this rank's micro-batches.

        ``tokens`` are those of the global batch, over which the loss is a mean.
        """

    def work(self, action: Action) -> Work:
        """Return what ``action`` needs."""

    def run(self, action: Action) -> Callable[[], None] | None:
        """Return what carries ``action`` out."""

    def gradients(self, bucket: int) -> Payload:
        """Return the buffer of one bucket; the last one carries the loss beside the gradients."""

    def evaluate(self, sequences: NDArray[np.int64]) -> tuple[Work, Callable[[], None] | None]:
        """Return what adds the loss of validation sequences to the buffer ``validation``."""

    @property
    def validation(self) -> Payload:
        """The buffer (sum of losses, tokens) of the validation that goes on."""

    def read(self, name: str) -> float:
        """Return ``loss``, ``gradient_norm`` or ``validation_loss``; reading the last clears it.

        Not a number where nothing is computed.
        """

    def snapshot(self) -> tuple[Work, Callable[[], None] | None]:
        """Return what copies the state, between two updates, into ``files``."""

    def files(self) -> Mapping[str, Payload]:
        """Return the last snapshot, as the files of a checkpoint."""

    def restore(
        self, files: Mapping[str, memoryview], digests: Mapping[str, str]
    ) -> tuple[Work, Callable[[], None] | None]:
        """Return what puts a snapshot back; ``digests`` are the SHA-256 that each file must have.

        What is carried out raises RunError for a file that is missing, damaged or of other shapes.
        """
