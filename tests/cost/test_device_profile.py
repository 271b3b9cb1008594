"""Profiles as files: read back as written, refused by name when they no longer hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from antiphon.cost.device_profile import (
    Block,
    DeviceProfile,
    ErrorFigure,
    Identity,
    LinkPoint,
    Point,
    read_profile,
    signature,
    write_profile,
)
from antiphon.errors import RunError
from antiphon.spec.model import Model

HERE = Identity(processor="Some Processor", torch="2.13.0", cores=2)


@pytest.fixture
def measured(profile: DeviceProfile) -> DeviceProfile:
    """A profile with one entry of each kind."""
    share = {"precision": "float32", "processes": 1, "threads": 2}
    return profile.model_copy(
        update={
            "identity": HERE,
            "basis": "measured",
            "errors": (ErrorFigure(basis="measured", relative=0.05, source="3 repeats"),),
            "blocks": (
                Block(
                    part="layer",
                    phase="backward",
                    signature="h64",
                    micro_batch=2,
                    sequence_length=32,
                    seconds=0.01,
                    spread=0.02,
                    **share,
                ),
            ),
            "points": (Point(kind="matmul", shape=(1, 8, 8, 8), seconds=1e-6, **share),),
            "links": (LinkPoint(operation="all_reduce", processes=2, nbytes=8, seconds=1e-4),),
        }
    )


def test_a_profile_is_read_back_as_it_was_written(measured: DeviceProfile, tmp_path: Path) -> None:
    path = tmp_path / "profiles" / "here.json"
    write_profile(measured, path)
    assert read_profile(path, HERE) == measured
    assert [file.name for file in path.parent.iterdir()] == ["here.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"processor": "Other"}, "processor was `Some Processor` and is `Other`"),
        ({"torch": "2.14.0"}, "torch was `2.13.0` and is `2.14.0`"),
        ({"cores": 4}, "cores was `2` and is `4`"),
    ],
)
def test_a_profile_of_another_machine_is_refused_by_name(
    measured: DeviceProfile, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "here.json"
    write_profile(measured, path)
    now = HERE.model_copy(update=change)
    assert not measured.matches(now)
    with pytest.raises(RunError, match="stale") as caught:
        read_profile(path, now)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "antiphon profile" in caught.value.help


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data | {"format": 99}, "format 99"),
        (lambda data: data | {"contention": "much"}, "contention"),
        (lambda data: data | {"speed": 3}, "speed"),
    ],
)
def test_a_profile_that_cannot_be_understood_says_what_and_where(
    measured: DeviceProfile,
    tmp_path: Path,
    spoil: Callable[[dict[str, object]], dict[str, object]],
    said: str,
) -> None:
    path = tmp_path / "here.json"
    write_profile(measured, path)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(RunError, match=said):
        read_profile(path)


def test_a_missing_profile_is_an_error_of_the_run_not_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no profile"):
        read_profile(tmp_path / "none.json")


def test_a_datasheet_is_of_no_machine_in_particular(profile: DeviceProfile) -> None:
    assert profile.identity is None
    assert profile.matches(HERE)


def test_layers_do_not_enter_the_signature_but_every_shape_does(
    make_model: Callable[..., Model],
) -> None:
    plain = signature(make_model())
    assert signature(make_model(layers=7)) == plain
    changes = [
        {"hidden": 128},
        {"heads": 2},
        {"kv_heads": 4},
        {"head_dim": 32},
        {"feed_forward": 192},
        {"vocabulary": 600},
        {"qkv_bias": True},
        {"query_key_norm": True},
    ]
    assert len({plain, *(signature(make_model(**change)) for change in changes)}) == 9
