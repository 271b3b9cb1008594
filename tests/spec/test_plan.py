"""A plan is a file: saved, loaded, told apart by name and digest, refused when it is too new."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from antiphon.errors import JobError
from antiphon.spec.plan import PRECISION_ALIASES, Plan

DEGREES = st.integers(1, 4)
PLANS = st.builds(
    Plan,
    data=DEGREES,
    tensor=DEGREES,
    pipeline=DEGREES,
    schedule=st.sampled_from(["1f1b", "gpipe"]),
    micro_batch=DEGREES,
    micro_batches=DEGREES,
    recompute=st.sampled_from(["none", "selective", "full"]),
    precision=st.sampled_from(["float32", "bfloat16"]),
)


@pytest.mark.parametrize(
    ("decisions", "name"),
    [
        ({"micro_batch": 1}, "dp1-mb1"),
        ({"data": 2, "micro_batch": 4, "recompute": "full"}, "dp2-mb4-full"),
        ({"data": 4, "tensor": 8, "pipeline": 2, "micro_batch": 1}, "dp4-tp8-pp2-mb1-1f1b"),
        (
            {"pipeline": 2, "schedule": "gpipe", "micro_batch": 2, "recompute": "selective"},
            "dp1-pp2-mb2-gpipe-selective",
        ),
    ],
)
def test_a_name_is_short_and_says_what_is_on(decisions: dict[str, Any], name: str) -> None:
    assert Plan(**decisions, micro_batches=1, precision="float32").name == name


@given(PLANS, PLANS)
def test_plans_of_one_job_that_differ_have_different_names(one: Plan, other: Plan) -> None:
    def decided(plan: Plan) -> dict[str, Any]:
        """What differs between the plans of a job; a schedule of one stage decides nothing."""
        fields = plan.model_dump(exclude={"micro_batches", "precision"})
        return fields if plan.pipeline > 1 else fields | {"schedule": ""}

    assert (one.name == other.name) == (decided(one) == decided(other))
    assert (one.digest == other.digest) == (one == other)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_digest_is_the_same_in_every_process(hash_seed: str) -> None:
    plan = Plan(data=2, micro_batch=4, micro_batches=8, precision="float32")
    program = f"from antiphon.spec.plan import Plan\nprint(Plan(**{plan.model_dump()}).digest)"
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True, text=True
    )
    assert run.stdout.strip() == plan.digest


def test_ranks_are_the_product_of_the_axes() -> None:
    plan = Plan(data=2, tensor=3, pipeline=4, micro_batch=1, micro_batches=1, precision="float32")
    assert plan.axes == {"data": 2, "tensor": 3, "pipeline": 4}
    assert plan.ranks == 24


@pytest.mark.parametrize(("alias", "precision"), PRECISION_ALIASES.items())
def test_a_precision_may_be_given_by_its_short_name(alias: Any, precision: str) -> None:
    assert Plan(micro_batch=1, micro_batches=1, precision=alias).precision == precision


@pytest.mark.parametrize("wrong", [{"data": 0}, {"micro_batch": 1.5}, {"precision": ["fp32"]}])
def test_a_plan_that_makes_no_sense_cannot_be_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate({"micro_batch": 1, "micro_batches": 1, "precision": "float32"} | wrong)


@given(plan=PLANS)
def test_a_saved_plan_is_loaded_as_it_was(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "plan.json"
    plan.save(path)
    assert Plan.load(path) == plan


def saved(tmp_path: Path, **changed: Any) -> Path:
    path = tmp_path / "plan.json"
    plan = Plan(micro_batch=1, micro_batches=1, precision="float32").model_dump() | changed
    path.write_text(json.dumps(plan))
    return path


def test_a_newer_plan_is_refused_by_its_format(tmp_path: Path) -> None:
    with pytest.raises(JobError) as refusal:
        Plan.load(saved(tmp_path, format=2, something_new=1))
    [mistake] = refusal.value.mistakes
    assert (mistake.key, mistake.path) == ("format", str(tmp_path / "plan.json"))
    assert "2 is newer than" in mistake.problem


def test_all_mistakes_of_a_plan_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(JobError) as refusal:
        Plan.load(saved(tmp_path, data=0, tensro=2, precision="fp31"))
    assert [(mistake.key, mistake.help) for mistake in refusal.value.mistakes] == [
        ("data", "use 1 or more"),
        ("precision", "use float64, float32, bfloat16, float16 or float8"),
        ("tensro", "write `tensor`"),
    ]


def test_a_file_that_is_no_plan_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(JobError, match="there is no such file"):
        Plan.load(path)
    path.write_text('{"data": 1,\n oops}')
    with pytest.raises(JobError) as refusal:
        Plan.load(path)
    assert refusal.value.mistakes[0].line == 2
