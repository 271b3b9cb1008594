"""``antiphon train`` against a plain PyTorch DistributedDataParallel loop, on two processes.

    python benchmarks/train_overhead.py [--blocks 30] [--seconds 3]

Both train the same model with the same optimizer on the same data, in blocks that take turns; the
measure is tokens a second of processor time, which others on the machine disturb least. The loop
is tuned: fused AdamW, gradients as views of the buckets. The limit: the 95% interval of the ratio
reaches 0.97.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import Others, paired_ratio

from antiphon.backend.supervisor import Workers
from antiphon.backend.tokens import Tokens
from antiphon.spec.job import Job
from antiphon.spec.plan import Plan
from antiphon.verbs.load import load
from antiphon.verbs.train import prepared_tokens

LIMIT = 0.97
RANKS = 2
HERE = Path(__file__).parent
JOB: dict[str, Any] = {
    "name": "overhead",
    "model": {
        "layers": 4,
        "hidden": 256,
        "heads": 8,
        "kv_heads": 4,
        "feed_forward": 704,
        "vocabulary": 2048,
        "context_length": 128,
    },
    "train": {
        "sequence_length": 128,
        "global_batch": 16,
        "steps": 1_000_000,
        "precision": "float32",
    },
}


def main() -> None:
    """Print the ratio of every pair of blocks and of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=3.0, help="least length of a block")
    options = parser.parse_args()
    job = load(JOB)
    tokens = prepared_tokens(job, lambda *_: None)
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory() as scratch, Others() as others:
        ours, theirs = Ours(job, tokens, Path(scratch)), Theirs(job, tokens)
        try:
            pairs = measure(ours, theirs, options.blocks, options.seconds)
        finally:
            ours.close()
            theirs.close()
    for measure_name in ("tokens_per_cpu_second", "tokens_per_second"):
        ratio = paired_ratio(*([block[measure_name] for block in side] for side in pairs))
        print(f"antiphon / DDP, {measure_name.replace('_', ' ')}: {ratio}")
        if measure_name == "tokens_per_cpu_second":
            verdict = "holds" if ratio.high >= LIMIT else "does not hold"
            print(f"  limit: the interval reaches {LIMIT}: {verdict}")
    print(f"others took {others.share:.1%} of the machine")


def measure(
    ours: Ours, theirs: Theirs, blocks: int, seconds: float
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Run blocks in turns, who begins alternating; the first pair warms up."""
    steps = 4
    while ours.block(steps)["seconds"] < seconds:
        steps *= 2
    theirs.block(steps)
    pairs: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for number in range(blocks):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        results = {first: first.block(steps), second: second.block(steps)}
        pairs[0].append(results[ours])
        pairs[1].append(results[theirs])
        ratio = pairs[0][-1]["tokens_per_cpu_second"] / pairs[1][-1]["tokens_per_cpu_second"]
        print(f"block {number + 1:>3} of {blocks}, {steps} steps: {ratio:.3f}", flush=True)
    return pairs


class Ours:
    """The training program on the project's own workers, which stay between blocks."""

    def __init__(self, job: Job, tokens: Tokens, folder: Path) -> None:
        self._workers = Workers(RANKS, 1, folder / "logs")
        plan = Plan(data=RANKS, micro_batch=8, micro_batches=1, precision="float32", threads=1)
        self._arguments = {
            "model": job.model.model_dump_json(),
            "plan": plan.model_dump_json(),
            "settings": job.train.model_dump_json(),
            "tokens": str(tokens.folder),
            "folder": str(folder),
        }

    def block(self, steps: int) -> dict[str, float]:
        """Take ``steps`` steps."""
        ranks = self._workers.run("overhead_sides:our_block", self._arguments | {"steps": steps})
        return together(ranks)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()


class Theirs:
    """The plain loop in processes of its own, which wait between blocks."""

    def __init__(self, job: Job, tokens: Tokens) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29611",
            "WORLD_SIZE": str(RANKS),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        command = [sys.executable, str(HERE / "overhead_sides.py")]
        command += [job.model.model_dump_json(), job.train.model_dump_json(), str(tokens.folder)]
        self._processes = [
            subprocess.Popen(
                command,
                env=environment | {"RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]

    def block(self, steps: int) -> dict[str, float]:
        """Take ``steps`` steps."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        ranks = []
        for process in self._processes:
            assert process.stdout is not None
            ranks.append(json.loads(process.stdout.readline()))
        return together(ranks)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()


def together(ranks: list[dict[str, float]]) -> dict[str, float]:
    """Return the block of all ranks: tokens add up, so does processor time; the slowest counts."""
    tokens = sum(rank["tokens"] for rank in ranks)
    seconds = max(rank["seconds"] for rank in ranks)
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / sum(rank["cpu_seconds"] for rank in ranks),
    }


if __name__ == "__main__":
    main()
