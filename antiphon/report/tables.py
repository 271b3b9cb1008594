"""Tables of what was found: plans and why others do not fit, predicted against measured.

They show the JSON objects that docs/json.md describes, so that what people and programs read is
one thing. All fit in 100 columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from antiphon.cost.device_profile import DeviceProfile
from antiphon.report import format as as_read
from antiphon.report.losses import LossCurve

MOST_PLANS = 12  # in the table: the JSON object holds all
MOST_REASONS = 6


def plan_report(planned: Mapping[str, Any]) -> RenderableType:
    """What ``antiphon plan`` found: the ranked plans, then the reasons against the others."""
    fitting = [plan for plan in planned["plans"] if plan["fits"]]
    refused = [plan for plan in planned["plans"] if not plan["fits"]]
    parts: list[RenderableType] = [_plans_title(planned, len(fitting))]
    if fitting:
        parts.append(plans_table(fitting))
    if refused:
        parts.append(refused_table(refused))
    return Group(*parts)
