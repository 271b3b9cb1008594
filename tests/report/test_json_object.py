"""What programs read is JSON that every parser takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.report.json_object import json_text, write_json
from antiphon.spec.plan import Plan

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Text that looks like what a list of numbers is laid out as.
    | st.text()
    | st.sampled_from(["[\n 1,\n 2\n]", '"[', "]\\", "[\n"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_an_object_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    assert json.loads(json_text(value)) == value


def test_a_number_that_json_lacks_is_null() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = json_text({"losses": [1.5, float("nan"), float("inf")]})
    assert json.loads(text, parse_constant=refuse) == {"losses": [1.5, None, None]}


def test_what_verbs_return_is_taken() -> None:
    plan = Plan(micro_batch=2, micro_batches=4, precision="float32")
    given = {"plan": plan, "at": Path("/runs/one"), "steps": np.arange(3), "most": np.float32(0.5)}
    read = json.loads(json_text(given))
    assert read["plan"]["micro_batch"] == 2
    assert (read["at"], read["steps"], read["most"]) == ("/runs/one", [0, 1, 2], 0.5)


def test_a_list_of_numbers_stands_in_one_line() -> None:
    assert '"losses": [1, 2, 3]' in json_text({"losses": [1, 2, 3], "text": "a"})


def test_what_has_no_place_in_json_is_named() -> None:
    with pytest.raises(TypeError, match="set has no place in JSON"):
        json_text({"names": {"a"}})


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "report.json"
    write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        write_json({"a": {1}}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
