"""From a job file to a Job: layers merged, every section checked, names and paths resolved.

All mistakes are reported at once. A section with mistakes is still checked against the others as
far as what is left of it allows; nothing is said twice for one cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from antiphon.errors import JobError, Mistake
from antiphon.spec.catalogue import catalogue, read_cluster
from antiphon.spec.check_job import Parts, check
from antiphon.spec.cluster import Cluster
from antiphon.spec.data import Count, Data
from antiphon.spec.huggingface_config import read_model
from antiphon.spec.inline_model import InlineModel, inline_model
from antiphon.spec.job import ClusterChoice, Job, PlanPins, Train
from antiphon.spec.layers import Given, Layer, Layers, read_overrides, read_user_file
from antiphon.spec.model import Model
from antiphon.spec.toml_file import frozen, read_toml
from antiphon.spec.validation import Location, listed, mistakes_in, nearest, shown

FORMAT = 1
BUILTIN_CORPORA = ("builtin:python",)
SECTIONS = ("model", "cluster", "train", "plan")

Section = TypeVar("Section", bound=Data)


def read_job(path: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Job:
    """The job of a TOML file.

    ``overrides`` are the arguments of ``--set``, such as ``"plan.tensor=2"``; ``seed`` is that of
    ``--seed``. They win over the file, which wins over the user's own file
    (``~/.config/antiphon/config.toml``), which wins over the defaults. Relative paths start from
    the folder of the file that names them, those in ``overrides`` from the working directory.
    Raises JobError with every mistake.
    """
    path = Path(path)
    return _job(lambda: read_toml(path), overrides, seed, path.stem)
