"""``antiphon quickstart``: the whole story on this machine, without a file or a download."""

from __future__ import annotations

from typing import Any

from antiphon.cli.options import AsJson, RunDir, Seed
from antiphon.cli.session import Session, session


def quickstart(run_dir: RunDir = None, seed: Seed = None, as_json: AsJson = False) -> None:
    """Profile this machine, plan, train a small model, compare, and let it write."""
    with session(as_json) as current:
        from antiphon.verbs.extra import require_run_extra

        require_run_extra("quickstart")
        from antiphon.report.tables import generated_report, train_report
        from antiphon.verbs.quickstart import quickstart as verb

        told = verb(run_dir=run_dir, seed=seed, watch=_watch(current)).to_json()
        current.progress.finish()
        current.out.print(train_report(told["trained"]))
        current.out.print(generated_report(told["generated"]))
        current.result(told)
