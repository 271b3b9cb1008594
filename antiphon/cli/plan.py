"""``antiphon plan``: what are the ways to run a job, and which is best?"""

from __future__ import annotations

from antiphon.cli.options import AsJson, JobFile, Overrides, Seed
from antiphon.cli.session import session


def plan(
    job: JobFile,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Rank the plans of a job, and say why others do not fit.

    For each: step time, tokens a second, memory and traffic. Needs no torch and no accelerator.
    """
    with session(as_json) as current:
        from antiphon.report.tables import plan_report
        from antiphon.verbs.plan import plan as verb

        found = verb(job, overrides=overrides or (), seed=seed, watch=current.progress).to_dict()
        current.out.print(plan_report(found))
        current.result(found)
