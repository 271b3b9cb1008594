"""How far predicted step times are from measured ones, on the machine at hand.

    python benchmarks/prediction.py [--repeats N]

For {1 process, 2 data-parallel processes} x {2 models}: measure the machine, plan, train, compare.
The limit is a median absolute error of 15%.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import Others

from antiphon.verbs.load import load
from antiphon.verbs.plan import plan_with
from antiphon.verbs.profile import profile
from antiphon.verbs.train import prepared_tokens, run_plan

LIMIT = 0.15
MODELS: dict[str, dict[str, Any]] = {
    "4M": {"layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "feed_forward": 704},
    "16M": {"layers": 6, "hidden": 448, "heads": 8, "kv_heads": 8, "feed_forward": 1216},
}


def main() -> None:
    """Print each prediction beside what was measured, and the median error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    errors = []
    print(f"{'model':<8}{'plan':<22}{'predicted s':>12}{'measured s':>12}{'error':>8}{'others':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(options.repeats):
            for name, model in MODELS.items():
                for processes in (1, 2):
                    folder = Path(scratch) / f"{name}-{processes}-{repeat}"
                    errors.append(compare(name, model, processes, folder))
    median = statistics.median(map(abs, errors))
    verdict = "holds" if median <= LIMIT else "does not hold"
    print(f"median absolute error {median:.1%} of {len(errors)} (limit {LIMIT:.0%}): {verdict}")


def compare(name: str, model: dict[str, Any], processes: int, folder: Path) -> float:
    """Return (predicted - measured) / measured of one run."""
    job = load(
        {
            "name": name,
            "model": model | {"vocabulary": 2048, "context_length": 128},
            "cluster": {"use": "local", "count": processes},
            "train": {"sequence_length": 128, "global_batch": 16, "steps": 20},
        }
    )
    tokens = prepared_tokens(job, lambda *_: None)
    with Others() as others:
        profiled = profile(job)
        best = plan_with(job, profiled.profile).best
        trained = run_plan(job, best, tokens, folder)
    error = (best.step_seconds - trained.step_seconds) / trained.step_seconds
    print(
        f"{name:<8}{best.plan.name:<22}{best.step_seconds:>12.4f}{trained.step_seconds:>12.4f}"
        f"{error:>+8.1%}{others.share:>8.1%}"
    )
    return error


if __name__ == "__main__":
    main()
