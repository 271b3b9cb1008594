"""The Work of what one rank is told to do: a forward, a backward, an update, an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from antiphon.cost.inventory import Setting, inventory, update_work
from antiphon.cost.parameters import embedding_parameters, head_parameters, layer_parameters
from antiphon.cost.work import Part, Phase, Work, concatenate
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan


@dataclass(frozen=True, slots=True)
class RankWork:
    """The computations of one rank. Forward, backward and evaluate are those of one micro-batch."""

    forward: Work
    backward: Work  # with a milestone ``bucket 0``, ``bucket 1``, ... where its gradients are done
    update: Work
    evaluate: Work


def rank_work(
    model: Model,
    plan: Plan,
    train: Train,
    buckets: Sequence[Sequence[str]],
    layers: range | None = None,
) -> RankWork:
    """Return the Work of a rank that holds ``layers`` (None: all of them).

    The first layer comes with the embedding, the last with the head. ``buckets`` are the names of
    the parameters whose gradients are reduced together, in the order of their reduction.
    """
    held = range(model.layers) if layers is None else layers
    setting = Setting(plan.tensor, plan.micro_batch, train.sequence_length, plan.precision)
    forward = concatenate(
        "forward",
        [inventory(model, part, Phase.FORWARD, setting) for part, _ in _parts(model, held)],
    )
    return RankWork(
        forward=forward,
        backward=_backward(model, plan, setting, buckets, held),
        update=update_work(_parameters(model, plan.tensor, held), plan.precision),
        evaluate=replace(forward, name="evaluate"),
    )


def _backward(
    model: Model, plan: Plan, setting: Setting, buckets: Sequence[Sequence[str]], layers: range
) -> Work:
    works: list[Work] = []
    rows = 0
    complete: dict[str, int] = {}  # by the parameter's name: after how many rows
    for part, prefix in reversed(list(_parts(model, layers))):
        work = inventory(model, part, Phase.BACKWARD, setting, plan.recompute)
        complete |= {prefix + name: rows + row for row, name in work.milestones}
        works.append(work)
        rows += len(work)
    milestones: list[tuple[int, str]] = []
    after = 0  # buckets are reduced in order: none is ready before the one before it
    for index, bucket in enumerate(buckets):
        after = max(after, *(complete[name] for name in bucket))
        milestones.append((after, f"bucket {index}"))
    return concatenate("backward", works, tuple(milestones))


def _parts(model: Model, layers: range) -> Iterator[tuple[Part, str]]:
    """Parts that a rank with ``layers`` holds, in order, with what goes before their names."""
    if layers.start == 0:
        yield Part.EMBEDDING, ""
    for layer in layers:
        yield Part.LAYER, f"model.layers.{layer}."
    if layers.stop == model.layers:
        yield Part.HEAD, ""


def _parameters(model: Model, tensor: int, layers: range) -> float:
    count = len(layers) * layer_parameters(model, tensor)
    if layers.start == 0:
        count = count + embedding_parameters(model, tensor)
    if layers.stop == model.layers:
        count = count + head_parameters(model, tensor, has_embedding=layers.start == 0)
    return float(count)
