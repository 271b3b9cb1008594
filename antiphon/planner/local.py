"""What plans for the machine at hand may look like: what its profile has to cover."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.cost.device_profile import Share
from antiphon.cost.precision import chosen_precision
from antiphon.planner.space import divisors, process_shapes, refusal_reason
from antiphon.spec.job import Job
from antiphon.spec.local_machine import local_cluster, read_processor
from antiphon.spec.plan import Precision


def resolved_precision(job: Job) -> Precision:
    """Return the precision that ``job`` is computed in on this machine."""
    return chosen_precision(job.train.precision, local_cluster(1).devices[0].peak_flops)


def local_shares(job: Job) -> tuple[Share, ...]:
    """Return the ways to share this machine's cores that plans of ``job`` may use."""
    return tuple(
        Share(shape.processes, shape.threads)
        for shape in process_shapes(job, read_processor().cores)
        if refusal_reason(job, shape) is None
    )


def micro_batch_sizes(job: Job, shares: Sequence[Share]) -> tuple[int, ...]:
    """Return every micro-batch that plans of ``job`` over ``shares`` may have, smallest first."""
    if job.plan.micro_batch is not None:
        return (job.plan.micro_batch,)
    batches = {job.train.global_batch // share.processes for share in shares}
    return tuple(sorted({size for batch in batches for size in divisors(batch)}))
