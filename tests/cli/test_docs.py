"""What the documentation lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from antiphon.cost.device_profile import DeviceProfile
from antiphon.planner.planned import Planned
from antiphon.registry import names
from antiphon.spec.catalogue import systems
from antiphon.spec.inline_model import InlineModel
from antiphon.spec.job import ClusterChoice, PlanPins, Train
from antiphon.verbs.load import load
from antiphon.verbs.plan import plan
from antiphon.verbs.train import Trained

DOCS = Path(__file__).parents[2] / "docs"
SECTIONS: dict[str, type[BaseModel]] = {
    "model": InlineModel,
    "cluster": ClusterChoice,
    "train": Train,
    "plan": PlanPins,
}

JOB = {
    "model": {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8},
    "cluster": {"use": "dgx-h100"},
    "train": {"sequence_length": 8192, "global_batch": 64, "steps": 10},
}


@pytest.fixture(scope="module")
def planned() -> Planned:
    return plan(JOB)


def test_every_key_of_a_job_is_documented_and_no_other() -> None:
    documented = re.findall(r"^\| `(\w+\.\w+)` \|", text("job.md"), re.MULTILINE)
    keys = [f"{section}.{key}" for section, of in SECTIONS.items() for key in of.model_fields]
    assert sorted(documented) == sorted([*keys, "model.config"])


def test_names_that_a_job_may_use_are_documented() -> None:
    for name in (*systems(), *names("pipeline")):
        assert f"`{name}`" in text("job.md")


@pytest.mark.parametrize("fits", [True, False])
def test_every_key_of_a_plan_is_documented(planned: Planned, fits: bool) -> None:
    found = next(plan for plan in planned.to_dict()["plans"] if plan["fits"] is fits)
    assert undocumented("`antiphon plan`", {**planned.to_dict(), **found}) == []


def test_every_key_of_a_run_is_documented(planned: Planned) -> None:
    from antiphon.backend.training import Measured

    job, run = load(JOB), Path("run")
    found = Trained(job, planned.best, Measured(seconds=[0.1]), run, run / "trace.json").to_json()
    keys = [*found, *found["predicted"], *found["measured"]]
    assert undocumented("`antiphon train`", keys) == []


def test_every_key_of_a_profile_is_documented() -> None:
    assert undocumented("`antiphon profile`", DeviceProfile.model_fields) == []


def text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def undocumented(section: str, keys: Any) -> list[str]:
    """Those of ``keys`` that no row of the section names."""
    _, _, body = text("json.md").partition(f"## {section}\n")
    rows = "\n".join(re.findall(r"^\| ([^|]*) \|", body.partition("\n## ")[0], re.MULTILINE))
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", rows))))
    return [key for key in keys if key not in named]
