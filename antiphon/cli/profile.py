"""``antiphon profile``: what does this machine do, for the layers of a job?"""

from __future__ import annotations

from antiphon.cli.options import AsJson, JobFile, Overrides, Seed
from antiphon.cli.session import session


def profile(
    job: JobFile,
    overrides: Overrides = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine with the layers of a job.

    Predictions for this machine use what is measured, until processor, torch or threads change.
    """
    with session(as_json) as current:
        from antiphon.report.tables import profile_report
        from antiphon.verbs.profile import profile as verb

        made = verb(job, overrides=overrides or (), seed=seed, watch=current.progress)
        current.progress.finish()
        current.out.print(profile_report(made.profile, made.path))
        current.result({"path": made.path, "profile": made.profile})
