"""The search: pins kept, everything counted, reasons given, the fastest first."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from math import prod
from typing import Any

import pytest
from described_jobs import LLAMA_70B, SMALL, make_job
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

from antiphon.cost.device_profile import Block, DeviceProfile, Identity, LinkPoint, signature
from antiphon.cost.layer_table import RECOMPUTES
from antiphon.errors import JobError, RunError
from antiphon.planner.search import search
from antiphon.planner.space import device_shapes, divisors
from antiphon.spec.catalogue import catalogue
from antiphon.spec.cluster import Cluster
from antiphon.spec.huggingface_config import model_from_config
from antiphon.spec.job import ClusterChoice, Job
from antiphon.spec.local_machine import local_cluster
from antiphon.spec.model import Model


def test_plans_are_ranked_by_time_and_all_candidates_are_counted() -> None:
    planned = search(*make_job(), limit=1000)
    steps = [plan.step_seconds for plan in planned.plans]
    assert steps == sorted(steps)
    assert len(planned.plans) == planned.distinct
    assert planned.parameters == planned.active_parameters == SMALL.parameters
    alternatives = sum(len(plan.alternatives) for plan in planned.plans)
    assert planned.candidates == planned.distinct + alternatives + planned.refused
    expected = 0
    for shape in device_shapes(make_job()[0], 8):
        for micro_batches in divisors(64 // shape.data):
            interleaved = [
                stages_per_rank
                for stages_per_rank in (2, 4, 8)
                if SMALL.layers % (shape.pipeline * stages_per_rank) == 0
                and micro_batches % shape.pipeline == 0
            ]
            ways = 3 + len(interleaved) if shape.pipeline > 1 else 1  # 1F1B, GPipe, zero-bubble
            expected += ways * len(RECOMPUTES)
    assert planned.candidates == expected


def test_every_plan_makes_use_of_every_device_and_takes_the_whole_batch() -> None:
    for costed in search(*make_job(), limit=1000).plans:
        plan = costed.plan
        assert plan.ranks == prod(plan.axes.values()) == 8
        assert plan.data * plan.micro_batch * plan.micro_batches == 64
        assert len(costed.peak_bytes_per_rank) == len(costed.wire_bytes_per_rank) == 8


def test_names_of_plans_are_unique() -> None:
    planned = search(*make_job(), limit=1000)
    names = [plan.plan.name for plan in planned.plans]
    names += [name for plan in planned.plans for name in plan.alternatives]
    assert len(names) == len(set(names))


@settings(max_examples=20, deadline=None)
@given(
    data=sampled_from([None, 1, 2, 4]),
    tensor=sampled_from([None, 1, 2]),
    micro_batch=sampled_from([None, 1, 4]),
    recompute=sampled_from([None, "none", "full"]),
    schedule=sampled_from([None, "gpipe", "1f1b"]),
)
def test_pins_are_kept(**pins: Any) -> None:
    planned = search(*make_job(plan=pins), limit=1000)
    for costed in planned.plans:
        for name, value in pins.items():
            assert value is None or getattr(costed.plan, name) == value


@given(number=integers(1, 10_000))
def test_divisors_are_all_divisors(number: int) -> None:
    assert divisors(number) == tuple(n for n in range(1, number + 1) if number % n == 0)


def test_layouts_that_do_not_divide_are_refused_with_the_reason_and_the_count() -> None:
    """Of 8 devices, 8 tensor-parallel ranks do not divide 4 key/value heads."""
    model = SMALL.model_copy(update={"kv_heads": 4, "layers": 3})
    planned = search(*make_job(model, train={"global_batch": 4}))
    reasons = {refusal.reason: refusal.count for refusal in planned.refusals}
    assert reasons == {
        "tensor = 8 does not divide the 4 key/value heads": 1,
        "data = 8 does not divide the global batch of 4 sequences": 1,
        "pipeline = 4 is more than the 3 layers": 2,
        "pipeline = 8 is more than the 3 layers": 1,
    }
    assert planned.refused == 5


def test_a_plan_that_does_not_fit_says_what_it_needs_and_what_there_is() -> None:
    planned = search(*make_job(LLAMA_70B, 8, train={"sequence_length": 8192}))
    refusal = planned.refusals[0]
    assert refusal.reason.startswith("memory: a rank needs ")
    assert refusal.reason.endswith("GiB of h100-sxm")
    assert refusal.peak_bytes_per_rank is not None
    assert max(refusal.peak_bytes_per_rank) > 76 * 2**30
    for costed in planned.plans:
        assert max(costed.peak_bytes_per_rank) <= 80 * 2**30


def test_plans_of_equal_time_and_memory_are_one_with_alternatives() -> None:
    """With a single micro-batch 1F1B and GPipe do the same; to put weights off saves waiting."""
    planned = search(*make_job(train={"global_batch": 8}, plan={"micro_batch": 8, "pipeline": 8}))
    assert {costed.plan.schedule for costed in planned.plans} == {"1f1b", "zero-bubble"}
    for costed in planned.plans:
        same = (costed.plan.name.replace("1f1b", "gpipe"),)
        assert costed.alternatives == (same if costed.plan.schedule == "1f1b" else ())
    assert planned.best.plan.schedule == "zero-bubble"


def test_what_a_plan_says_of_its_time_adds_up() -> None:
    best = search(*make_job(plan={"pipeline": 2})).best
    assert sum(asdict(best.seconds).values()) == pytest.approx(best.step_seconds)
    assert best.bubble_fraction == best.seconds.idle / best.step_seconds
    assert best.tokens_per_second == pytest.approx(64 * 1024 / best.step_seconds)
    assert 0 < best.model_flops_utilization < 1
    assert best.reason.startswith("fastest of ")
    assert "computing" in best.reason


def test_an_estimate_from_a_datasheet_says_so_and_gives_an_interval() -> None:
    best = search(*make_job()).best
    assert best.basis == "datasheet"
    assert best.interval is not None
    assert best.interval.low_seconds < best.step_seconds < best.interval.high_seconds
    assert "not validated" in best.interval.source


def test_json_has_the_documented_keys() -> None:
    found = search(*make_job(LLAMA_70B, 8, train={"sequence_length": 8192})).to_dict()
    assert {"parameters", "candidates", "plans", "best"} <= found.keys()
    keys = {
        "name",
        "axes",
        "fits",
        "reason",
        "step_seconds",
        "tokens_per_second",
        "model_flops_utilization",
        "peak_bytes_per_rank",
        "wire_bytes_per_rank",
        "bubble_fraction",
    }
    for plan in found["plans"]:
        assert keys <= plan.keys()
    assert {plan["fits"] for plan in found["plans"]} == {True, False}
    assert found["best"] == found["plans"][0]["name"]
    assert json.loads(json.dumps(found)) == found


def test_where_nothing_fits_it_says_what_would_and_that_does() -> None:
    with pytest.raises(RunError) as caught:
        search(*make_job(LLAMA_70B, 1))
    assert "the leanest, " in caught.value.problem
    assert "use 16 devices: " in caught.value.help
    named = caught.value.help.removeprefix("use 16 devices: ").removesuffix(" fits")
    found = search(*make_job(LLAMA_70B, 2), limit=1000)
    assert named in {plan.plan.name for plan in found.plans}


def test_where_pins_keep_everything_from_fitting_it_says_so() -> None:
    pins = {"data": 64}
    with pytest.raises(RunError, match=r"delete the pins of \[plan\]"):
        search(*make_job(LLAMA_70B, 8, plan=pins))


def test_pins_that_no_layout_keeps_are_a_mistake_of_the_job() -> None:
    with pytest.raises(JobError, match="tensor = 16 does not divide the 8 key/value heads"):
        search(*make_job(LLAMA_70B, 8, plan={"tensor": 16}))
    with pytest.raises(JobError, match="do not divide the 8 devices"):
        search(*make_job(plan={"data": 3}))


def test_a_precision_that_the_device_is_not_known_to_have_is_a_mistake() -> None:
    job, cluster = make_job(train={"precision": "float8"})
    devices = tuple(
        device.model_copy(update={"peak_flops": {"float32": 1e12}}) for device in cluster.devices
    )
    node = cluster.nodes[0].model_copy(update={"devices": devices})
    with pytest.raises(JobError, match=r"train\.precision"):
        search(job, cluster.model_copy(update={"nodes": (node,)}))


def test_a_cluster_of_unequal_devices_is_planned_for_its_slowest_and_smallest() -> None:
    job, fast = make_job(plan={"tensor": 1, "pipeline": 1, "micro_batch": 1, "recompute": "none"})
    slow = catalogue("dgx-a100")
    mixed = fast.model_copy(
        update={
            "nodes": (
                fast.nodes[0].model_copy(update={"devices": fast.devices[:4] + slow.devices[:4]}),
            )
        }
    )
    assert search(job, mixed).best.step_seconds == pytest.approx(
        search(job, fast.model_copy(update={"nodes": slow.nodes})).best.step_seconds
    )
    assert search(job, mixed).best.step_seconds > search(job, fast).best.step_seconds


def local_profile(model: Model = SMALL) -> DeviceProfile:
    """Two cores measured as one process of two threads and as two of one."""
    blocks = [
        Block(
            part=part,
            phase=phase,
            signature=signature(model),
            micro_batch=size,
            sequence_length=1024,
            precision="float32",
            processes=processes,
            threads=2 // processes,
            seconds=0.1 * size * processes,
            spread=0.01,
        )
        for part in ("embedding", "layer", "head")
        for phase in ("forward", "backward")
        for size in (1, 4)
        for processes in (1, 2)
    ]
    return DeviceProfile(
        device="processor",
        identity=Identity(processor="Some Processor", torch="2.13.0", cores=2),
        basis="measured",
        source="made up",
        peak_flops={"float32": 1e11},
        memory_bandwidth=1e10,
        contention=1.0,
        blocks=tuple(blocks),
        links=(LinkPoint(operation="all_reduce", processes=2, nbytes=2**20, seconds=1e-3),),
    )


def local_job(**changes: Any) -> Job:
    job, _ = make_job(train={"precision": "float32", **changes.pop("train", {})}, **changes)
    return job.model_copy(
        update={"cluster_choice": ClusterChoice(use="local", **changes.get("cluster", {}))}
    )


def roomy(processes: int = 1, nbytes: int = 2**36) -> Cluster:
    """This machine, with so much memory."""
    cluster = local_cluster(processes)
    devices = tuple(
        device.model_copy(update={"memory_nbytes": nbytes // processes})
        for device in cluster.devices
    )
    node = cluster.nodes[0].model_copy(update={"devices": devices})
    return cluster.model_copy(update={"nodes": (node,)})


def test_this_machine_is_shared_among_every_product_of_processes() -> None:
    planned = search(local_job(), roomy(), {"processor": local_profile()}, limit=1000)
    found = {(*p.plan.axes.values(), p.plan.threads) for p in planned.plans}
    assert found == {(1, 1, 1, 2), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1)}
    schedules = {p.plan.schedule for p in planned.plans if p.plan.pipeline == 2}
    assert schedules == {"gpipe", "1f1b", "zero-bubble", "interleaved-1f1b"}
    by_name = {p.plan.name: p for p in planned.plans}
    assert by_name["dp2-mb4"].basis == by_name["dp1-mb1"].basis == "measured"
    assert by_name["dp2-mb8"].basis == "fitted"
    assert by_name["dp2-mb4-full"].basis == "fitted"
    sent = by_name["dp2-mb4"].wire_bytes_per_rank
    assert sent == (4 * SMALL.parameters,) * 2


def test_a_local_step_is_its_measured_blocks_the_reduction_and_the_update() -> None:
    planned = search(local_job(), roomy(), {"processor": local_profile()}, limit=1000)
    plan = next(p for p in planned.plans if p.plan.name == "dp2-mb4")
    blocks = 2 * 8 + 4  # of 8 layers, embedding and head, forward and backward: 0.8 seconds each
    assert plan.seconds.computing == pytest.approx(plan.plan.micro_batches * blocks * 0.8)
    reduction = 4 * SMALL.parameters / 2**20 * 1e-3
    assert plan.seconds.reduction == pytest.approx(reduction, rel=0.01)
    assert plan.seconds.idle == plan.seconds.messages == plan.seconds.tensor == 0


def test_a_local_pipeline_computes_what_its_measured_blocks_take() -> None:
    profiles = {"processor": local_profile()}
    pins = {"pipeline": 2, "micro_batch": 4, "schedule": "1f1b", "recompute": "none"}
    (plan,) = search(local_job(plan=pins), roomy(), profiles, limit=1000).plans
    blocks = 2 * 8 + 4  # of 8 layers, embedding and head, forward and backward: 0.8 seconds each
    assert plan.seconds.computing == pytest.approx(plan.plan.micro_batches * blocks * 0.8 / 2)
    assert plan.fidelity == "simulate"
    assert plan.basis == "fitted"  # no message was measured


def test_a_local_tensor_parallel_step_is_measured_where_its_shares_were() -> None:
    """A rank computes its share of each block, and waits as long as it was seen to wait in it."""
    profile = local_profile()
    shares = tuple(
        block.model_copy(update={"tensor": 2, "seconds": block.seconds / 2, "tensor_seconds": 0.1})
        for block in profile.blocks
    )
    profile = profile.model_copy(update={"blocks": (*profile.blocks, *shares)})
    pins = {"tensor": 2, "micro_batch": 4, "recompute": "none"}
    (plan,) = search(local_job(plan=pins), roomy(), {"processor": profile}, limit=1000).plans
    blocks = 2 * 8 + 4
    assert plan.seconds.computing == pytest.approx(plan.plan.micro_batches * blocks * 0.4)
    assert plan.seconds.tensor == pytest.approx(plan.plan.micro_batches * blocks * 0.1)
    assert plan.basis == "measured"


def test_how_the_machine_is_described_does_not_matter() -> None:
    profiles = {"processor": local_profile()}
    one, two = (search(local_job(), roomy(n), profiles) for n in (1, 2))
    assert one.to_dict() == two.to_dict()


def test_processes_share_the_machines_memory() -> None:
    with pytest.raises(RunError, match="of this machine"):
        search(local_job(), roomy(nbytes=2**28), {"processor": local_profile()})
    planned = search(local_job(), roomy(nbytes=2**32), {"processor": local_profile()}, limit=1000)
    assert {p.plan.data for p in planned.plans} == {1}
    assert {r.axes["data"] for r in planned.refusals} == {1, 2}


def test_a_pinned_number_of_processes_is_kept() -> None:
    for pinned in ({"plan": {"data": 4}}, {"cluster": {"count": 4}}):
        planned = search(local_job(**pinned), roomy(), {"processor": local_profile()})
        assert {(p.plan.ranks, p.plan.threads) for p in planned.plans} == {(4, 1)}
        assert planned.best.basis == "fitted"


def test_degrees_that_the_model_does_not_have_are_a_mistake_of_the_job() -> None:
    with pytest.raises(JobError, match="tensor = 3 does not divide the 16 attention heads"):
        search(local_job(plan={"tensor": 3}), roomy(), {"processor": local_profile()})


def test_a_machine_that_was_not_measured_is_planned_for_and_said_to_be_not_validated() -> None:
    job = local_job()
    planned = search(job, roomy(), limit=1000)
    assert {plan.basis for plan in planned.plans} == {"datasheet"}
    assert planned.best.interval is None
    assert "not validated" in planned.best.to_dict()["interval_source"]
    assert search(job, roomy(2), limit=1000).to_dict() == planned.to_dict()


PLAN_70B = """
import sys
from antiphon.planner.search import search
from antiphon.spec.catalogue import catalogue
from antiphon.spec.huggingface_config import model_from_config
from antiphon.spec.job import ClusterChoice, Job, PlanPins, Train
from antiphon.spec.model import Model
model = Model(layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, feed_forward=28672,
              vocabulary=128256, context_length=8192)
cluster = catalogue("dgx-h100", 8)
job = Job(name="70b", model=model, cluster_choice=ClusterChoice(use="dgx-h100", count=8),
          cluster=cluster, train=Train(sequence_length=8192, global_batch=512, steps=10),
          plan=PlanPins())
assert search(job, cluster).candidates > 900
print(*sys.modules)
"""


def test_a_70_billion_plan_for_64_devices_takes_no_torch() -> None:
    """How long it takes is for ``benchmarks/plan_time.py`` to say."""
    done = subprocess.run(
        [sys.executable, "-c", PLAN_70B], capture_output=True, text=True, check=True
    )
    modules = done.stdout.split()
    assert "antiphon.planner.search" in modules
    assert "torch" not in modules


@pytest.mark.parametrize("family", ["gpt2", "mixtral"])
def test_a_family_that_is_only_counted_is_planned_for(family: str) -> None:
    """A larger share of a mixture's parameters does nothing for a token, and takes no time."""
    config = {"model_type": family, "vocab_size": 32_000}
    if family == "mixtral":
        config |= {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16}
        config |= {"num_hidden_layers": 8}
    model = model_from_config(config)
    planned = search(*make_job(model))
    assert planned.parameters == model.parameters
    assert planned.active_parameters == model.active_parameters
    assert (planned.active_parameters < planned.parameters) == (family == "mixtral")
    if family == "mixtral":
        more = model.model_copy(update={"experts": 16})
        pins = {"data": 8, "tensor": 1, "pipeline": 1, "micro_batch": 8, "recompute": "none"}
        both = [search(*make_job(each, plan=pins)).best for each in (model, more)]
        assert max(both[1].peak_bytes_per_rank) > max(both[0].peak_bytes_per_rank)
        assert both[1].model_flops_utilization == pytest.approx(
            both[0].model_flops_utilization * both[0].step_seconds / both[1].step_seconds, rel=0.01
        )
