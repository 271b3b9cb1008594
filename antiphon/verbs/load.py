"""What every verb does first: from whatever the caller has to a Job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antiphon.spec.job import Job
from antiphon.spec.read_job import job_from_dict, read_job

JobLike = Job | str | Path | Mapping[str, Any]
"""A Job, the path of a job file, or the content of one as a dictionary."""


def load(job: JobLike, overrides: Sequence[str] = (), seed: int | None = None) -> Job:
    """Return the Job. ``overrides`` are ``section.key=VALUE``; raises JobError with all mistakes.

    A Job that is resolved already takes no overrides.
    """
    match job:
        case Job():
            assert not overrides, "a resolved job takes no overrides"
            return job
        case Mapping():
            return job_from_dict(job, overrides, seed)
        case _:
            return read_job(job, overrides, seed)
