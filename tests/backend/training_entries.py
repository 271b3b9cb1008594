"""What workers run in the tests of training: the real entry, watched, or with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from antiphon.backend.stage import TorchStage
from antiphon.backend.training import train_rank_with
from antiphon.backend.worker import Worker


def recording(
    worker: Worker, arguments: dict[str, Any], alter: Callable[[TorchStage], None] = lambda _: None
) -> dict[str, Any]:
    """Train, and write the gradients of each step as the optimizer sees them."""
    folder = Path(arguments["folder"])

    def watch(stage: TorchStage) -> TorchStage:
        update = stage._update

        def recorded() -> None:
            gradients = {
                name: parameter.grad.clone()
                for name, parameter in stage.transformer.named_parameters()
            }
            path = folder / f"gradients-{worker.rank}-{stage.steps}.safetensors"
            safetensors.torch.save_file(gradients, path)
            update()

        stage._update = recorded
        alter(stage)
        return stage

    return train_rank_with(worker, arguments, watch)


def one_bucket_scaled(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 gives 1.001 of its gradients of bucket 0."""

    def alter(stage: TorchStage) -> None:
        complete = stage._gradients._complete

        def scaled(bucket: int) -> None:
            if bucket == 0 and worker.rank == 1:
                stage.gradients(0).mul_(1.001)
            complete(bucket)

        stage._gradients._complete = scaled

    return recording(worker, arguments, alter)


def one_microbatch_dropped(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 leaves the gradients of its first micro-batch out."""

    def alter(stage: TorchStage) -> None:
        backward = stage._backward

        def dropped(action: Any) -> None:
            backward(action)
            if worker.rank == 1 and action.microbatch == 0:
                loss = stage._gradients.loss.clone()
                stage._gradients.clear()
                stage._gradients.loss.copy_(loss)

        stage._backward = dropped

    return recording(worker, arguments, alter)


def sampler_shifted(worker: Worker, arguments: dict[str, Any]) -> dict[str, Any]:
    """Rank 1 trains on the neighbours of the sequences that it should train on."""

    def alter(stage: TorchStage) -> None:
        begin = stage.begin

        def shifted(microbatches: Any, **rest: Any) -> None:
            begin([m + 1 for m in microbatches] if worker.rank == 1 else microbatches, **rest)

        stage.begin = shifted

    return recording(worker, arguments, alter)
