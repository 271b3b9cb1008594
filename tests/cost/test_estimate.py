"""Estimates: the factored arrays against one plan at a time, and against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import data, integers, sampled_from

from antiphon.cost.collective import channel, collective_seconds
from antiphon.cost.device_profile import DeviceProfile, Share
from antiphon.cost.estimate import Candidates, Estimator, Task, Times
from antiphon.cost.inventory import Setting, inventory
from antiphon.cost.layer_table import RECOMPUTES, Split
from antiphon.cost.mesh_table import Meshes
from antiphon.cost.rank_work import rank_work
from antiphon.cost.roofline import work_seconds
from antiphon.cost.work import Kind, Operation, Part, Phase
from antiphon.policy.layout.stages import even_stages
from antiphon.policy.pipeline.action import held
from antiphon.registry import find
from antiphon.spec.cluster import Cluster
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan

BATCH, LENGTH = 32, 64
MODEL = Model(
    layers=7, hidden=64, heads=4, kv_heads=4, head_dim=16, feed_forward=176, vocabulary=512
)
ROUND = DeviceProfile(
    device="round",
    basis="fitted",
    source="made up",
    peak_flops={"float32": 1e10},
    memory_bandwidth=1e9,
    contention=0.2,
    step_overhead_seconds=1e-3,
)


@pytest.fixture
def make_task(make_cluster: Callable[..., Cluster]) -> Callable[..., Task]:
    """Return what makes a task; keywords replace its figures."""

    def make(**changes: object) -> Task:
        task = Task(
            model=MODEL,
            sequence_length=LENGTH,
            global_batch=BATCH,
            precision="float32",
            cluster=make_cluster(nodes=2),
            profiles=(ROUND,),
            bucket_nbytes=2**16,
            exact=False,
            schedules=("1f1b", "gpipe"),
            held=lambda name, *shape: held(find("pipeline", name), *shape),
            stage_layers=even_stages,
        )
        return replace(task, **changes)

    return make


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def one(
    task: Task,
    plan: tuple[int, int, int] = (1, 1, 1),
    micro_batch: int = 1,
    recompute: int = 0,
    schedule: int = 0,
) -> tuple[Estimator, Candidates]:
    """A space of a single plan: (data, tensor, pipeline), and what is left."""
    split = Split(*map(column, (plan[1], micro_batch, recompute, 1, 0)))
    micro_batches = BATCH // plan[0] // micro_batch
    estimator = Estimator(task, Meshes(*map(column, (*plan, 1, 0))), split)
    return estimator, Candidates(*map(column, (0, 0, micro_batches, schedule)))


def parts(times: Times, row: int = 0) -> dict[str, float]:
    return {field.name: float(getattr(times, field.name)[row]) for field in fields(times)}


def test_a_plan_of_one_rank_takes_exactly_the_sum_of_its_work(
    make_task: Callable[..., Task],
) -> None:
    task = make_task()
    for micro_batch, recompute in ((1, "none"), (4, "selective"), (8, "full")):
        estimator, candidates = one(task, micro_batch=micro_batch, recompute=RECOMPUTES.index(recompute))
        plan = Plan(
            micro_batch=micro_batch,
            micro_batches=BATCH // micro_batch,
            precision="float32",
            recompute=recompute,
        )
        train = Train(sequence_length=LENGTH, global_batch=BATCH, steps=1)
        work = rank_work(MODEL, plan, train, [])
        forward, backward, update = (
            work_seconds(ROUND, each).sum() for each in (work.forward, work.backward, work.update)
        )
        times = parts(estimator.times(candidates))
        expected = plan.micro_batches * (forward + backward) + update + 1e-3
        assert times["step"] == pytest.approx(expected, rel=1e-12)
        assert times["update"] == pytest.approx(update, rel=1e-12)
        for nothing in ("tensor", "idle", "messages", "reduction"):
            assert times[nothing] == 0


@settings(max_examples=40, deadline=None)
@given(drawn=data())
def test_arrays_of_plans_are_priced_as_one_plan_at_a_time(drawn, make_cluster_once=[]) -> None:
    task = shared_task()
    degrees = [(1, 1, 1), (4, 1, 1), (2, 2, 4), (1, 4, 2), (1, 2, 7), (16, 1, 1), (2, 4, 2)]
    draw = drawn.draw
    plans = [
        (draw(sampled_from(degrees)), draw(sampled_from([1, 2])), draw(integers(0, 2)), draw(integers(0, 1)))
        for _ in range(draw(integers(1, 12)))
    ]
    meshes = Meshes(
        *(column(*(degree[axis] for degree in degrees)) for axis in range(3)),
        column(*[1] * len(degrees)),
        column(*[0] * len(degrees)),
    )
    splits = [(degree[1], size, mode, 1, 0) for degree in degrees for size in (1, 2) for mode in range(3)]
    split = Split(*(column(*(row[i] for row in splits)) for i in range(5)))
    candidates = Candidates(
        column(*(degrees.index(degree) for degree, *_ in plans)),
        column(*(splits.index((degree[1], size, mode, 1, 0)) for degree, size, mode, _ in plans)),
        column(*(BATCH // degree[0] // size for degree, size, *_ in plans)),
        column(*(order for *_, order in plans)),
    )
    together = Estimator(task, meshes, split)
    times, peaks = together.times(candidates), together.peak_nbytes(candidates)
    for row, (degree, size, mode, order) in enumerate(plans):
        alone, candidate = one(task, degree, size, mode, order)
        assert parts(times, row) == pytest.approx(parts(alone.times(candidate)), rel=1e-12)
        assert peaks[row] == alone.peak_nbytes(candidate)[0]


def shared_task() -> Task:
    """As ``make_task()`` gives it: Hypothesis takes no fixtures made anew for each example."""
    from antiphon.spec.catalogue import catalogue

    return Task(
        model=MODEL,
        sequence_length=LENGTH,
        global_batch=BATCH,
        precision="float32",
        cluster=catalogue("dgx-a100", 2),
        profiles=(ROUND,),
        bucket_nbytes=2**16,
        exact=False,
        schedules=("1f1b", "gpipe"),
        held=lambda name, *shape: held(find("pipeline", name), *shape),
        stage_layers=even_stages,
    )
