"""``antiphon profile``: measures this machine with the job's own model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from antiphon.cost.device_profile import (
    DeviceProfile,
    Identity,
    Share,
    read_profile,
    signature,
    write_profile,
)
from antiphon.cost.layer_table import RECOMPUTES
from antiphon.errors import RunError
from antiphon.planner.local import local_shares, micro_batch_sizes, resolved_precision
from antiphon.spec.job import Job
from antiphon.spec.local_machine import read_processor
from antiphon.spec.plan import Recompute
from antiphon.verbs.extra import require_run_extra
from antiphon.verbs.load import JobLike, load
from antiphon.verbs.watch import Watch, nobody


@dataclass(frozen=True, slots=True)
class Profiled:
    """A profile and the file it is kept in."""

    profile: DeviceProfile
    path: Path


def profile(
    job: JobLike,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    fresh: bool = True,
    watch: Watch = nobody,
) -> Profiled:
    """Measure this machine for ``job`` and keep the profile; later plans and runs use it.

    Unless ``fresh``, a profile that is kept and still valid is returned instead.
    """
    job = load(job, overrides, seed, purpose="run")
    if not fresh:
        kept = kept_profile(job)
        if kept is not None:
            return kept
    require_run_extra("profile")
    from antiphon.backend.profile.measure import Extent, measure

    extent = Extent(
        micro_batches={share: measured_sizes(job, share) for share in local_shares(job)},
        recomputes=tuple(dict.fromkeys(("none", *allowed_recomputes(job)))),
        precision=resolved_precision(job),
    )
    path = profile_path(job)

    def progress(text: str, done: int, total: int) -> None:
        watch("profile", {"text": text, "done": done, "total": total})

    progress("starting processes", 0, 0)
    measured = measure(job.model, job.train, extent, this_machine(), path.parent / "logs", progress)
    write_profile(measured, path)
    return Profiled(measured, path)


def kept_profile(job: Job) -> Profiled | None:
    """Return the profile kept for such a job, unless there is none or it is of another machine."""
    path = profile_path(job)
    if not path.exists():
        return None
    try:
        return Profiled(read_profile(path, this_machine()), path)
    except RunError:  # stale or of an older format: it is measured anew
        return None


def profile_path(job: Job) -> Path:
    """Return where the profile of such a job is kept: by what is measured for it."""
    facts = [
        signature(job.model),
        job.train.sequence_length,
        resolved_precision(job),
        allowed_recomputes(job),
        *((share, measured_sizes(job, share)) for share in local_shares(job)),
    ]
    name = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return cache_folder() / f"{name}.json"


def cache_folder() -> Path:
    """Return where profiles are kept, by the XDG rules."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = home if home.is_absolute() else Path.home() / ".cache"
    return base / "antiphon" / "profiles"


def this_machine() -> Identity:
    """Return what a profile of this machine is valid for, without importing torch."""
    processor = read_processor()
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = ""
    return Identity(processor=processor.name, torch=torch, cores=processor.cores)


def allowed_recomputes(job: Job) -> tuple[Recompute, ...]:
    """Return the recomputations that plans of ``job`` may use."""
    return RECOMPUTES if job.plan.recompute is None else (job.plan.recompute,)


def measured_sizes(job: Job, share: Share) -> tuple[int, ...]:
    """Return the micro-batches to measure: the smallest, the greatest, and one between."""
    sizes = micro_batch_sizes(job, (share,))
    return tuple(sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}))
