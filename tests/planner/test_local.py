"""What a profile of this machine has to cover."""

from __future__ import annotations

from typing import Any

from antiphon.cost.precision import chosen_precision
from antiphon.planner.local import local_shares, micro_batch_sizes, resolved_precision
from antiphon.spec.job import ClusterChoice, Job, PlanPins, Train
from antiphon.spec.local_machine import read_processor
from antiphon.spec.model import Model

MODEL = Model(
    layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, feed_forward=176, vocabulary=512
)


def make_job(global_batch: int, **pins: Any) -> Job:
    return Job(
        name="test",
        model=MODEL,
        cluster_choice=ClusterChoice(),
        cluster=None,
        train=Train(sequence_length=32, global_batch=global_batch, steps=1),
        plan=PlanPins(**pins),
    )


def test_shares_use_all_cores_and_divide_the_batch() -> None:
    cores = read_processor().cores
    shares = local_shares(make_job(12 * cores))
    assert shares[0] == (1, cores)
    assert shares[-1] == (cores, 1)
    assert all(share.processes * share.threads == cores for share in shares)
    assert local_shares(make_job(1)) == ((1, cores),)


def test_a_pinned_number_of_processes_is_the_only_share() -> None:
    assert [share.processes for share in local_shares(make_job(12, data=3))] == [3]


def test_micro_batches_are_the_divisors_of_what_a_process_computes() -> None:
    job = make_job(12)
    assert micro_batch_sizes(job, local_shares(make_job(12, data=1))) == (1, 2, 3, 4, 6, 12)
    assert micro_batch_sizes(job, local_shares(make_job(12, data=2))) == (1, 2, 3, 6)
    assert micro_batch_sizes(make_job(12, micro_batch=4), local_shares(job)) == (4,)


def test_bfloat16_is_chosen_only_where_it_is_fast() -> None:
    assert chosen_precision(None, {"float32": 19.5e12, "bfloat16": 312e12}) == "bfloat16"
    assert chosen_precision(None, {"float32": 1e12, "bfloat16": 2e12}) == "float32"
    assert chosen_precision(None, {"float32": 1e12}) == "float32"
    assert chosen_precision("float64", {"float32": 1e12, "bfloat16": 9e12}) == "float64"
    assert resolved_precision(make_job(1)) in {"float32", "bfloat16"}
