"""What every verb does first: from whatever the caller has to a Job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from antiphon.errors import JobError
from antiphon.spec.job import Job
from antiphon.spec.read_job import Purpose, job_from_dict, read_job
from antiphon.spec.runnable import not_runnable

JobLike = Job | str | Path | Mapping[str, Any]
"""A Job, the path of a job file, or the content of one as a dictionary."""


def load(
    job: JobLike,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    purpose: Purpose = "plan",
) -> Job:
    """Return the Job. ``overrides`` are ``section.key=VALUE``; raises JobError with all mistakes.

    A Job that is resolved already takes no overrides. With the purpose "run", what can be planned
    for but not run yet is a mistake, too.
    """
    match job:
        case Job():
            assert not overrides, "a resolved job takes no overrides"
            use, precision = job.cluster_choice.use, job.train.precision
            mistakes = tuple(not_runnable(use, precision, job.plan))
            if mistakes and purpose == "run":
                raise JobError(*mistakes)
            return job
        case Mapping():
            return job_from_dict(job, overrides, seed, purpose=purpose)
        case _:
            return read_job(job, overrides, seed, purpose=purpose)
