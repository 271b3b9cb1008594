"""How many actions a second the simulated world carries out, on one core.

    python benchmarks/simulator.py [--ranks 64] [--microbatches 512] [--repeats 7]

1F1B by rows and by coroutines, the event log hashed, both hashes compared; SimPy on the same
pattern, if it is installed (`pip install simpy`); one step of GPT-3 175B (Brown et al. 2020, arXiv
2005.14165, table 2.1) with interleaved 1F1B on 1,024 A100, folded and not. Actions are entries of
the lowered program, messages included. Seconds are those of the processor. The engines take turns;
the fastest turn counts, since a neighbour on the machine only ever takes away, and the median and
the slowest stand beside it. What is found once for a list of actions, and serves every step, is
found in a turn before them, which does not count (SimPy finds nothing).
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from measuring import Others

from antiphon.cost.datasheet import datasheet_profile
from antiphon.cost.price import Pricer
from antiphon.simulation.simulated_plan import SimulatedPlan
from antiphon.spec.catalogue import catalogue
from antiphon.spec.job import Train
from antiphon.spec.model import Model
from antiphon.spec.plan import Plan
from antiphon.verbs.simulate import simulate
from antiphon.world.simulated.rows import Compute, Post

LIMITS = {"rows": 500_000, "coroutines": 200_000}  # actions a second
GPT3_175B: dict[str, Any] = {
    "model": {
        "layers": 96,
        "hidden": 12288,
        "heads": 96,
        "kv_heads": 96,
        "feed_forward": 49152,
        "vocabulary": 51200,
        "context_length": 2048,
    },
    "cluster": {"use": "dgx-a100", "count": 128},
    "train": {"sequence_length": 2048, "global_batch": 1536, "steps": 1},
    "plan": {
        "tensor": 8,
        "pipeline": 8,
        "schedule": "interleaved-1f1b",
        "stages_per_rank": 3,
        "micro_batch": 1,
    },
}


def main() -> None:
    """Print rates and verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--microbatches", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    simulated = pipeline(options.ranks, options.microbatches)
    engines: dict[str, Callable[[], str]] = {
        "rows": lambda: simulated.run(fold=False).log.hash(),
        "coroutines": lambda: simulated.run_coroutines(fold=False).log.hash(),
    }
    if find_spec("simpy") is not None:
        engines["simpy"] = lambda: simpy_run(simulated)
    actions = sum(len(program.rows.names) for program in simulated.programs)
    print(f"1F1B, {options.ranks} ranks, {options.microbatches} micro-batches: {actions:,} actions")
    hashes = {name: engine() for name, engine in engines.items() if name in LIMITS}
    with Others() as others:
        print("actions/s        best    median   slowest")
        for name, seconds in by_turns(engines, options.repeats).items():
            turns = min(seconds), statistics.median(seconds), max(seconds)
            rates = "".join(f"{actions / each:>10,.0f}" for each in turns)
            print(f"{name:<11}{rates}  {verdict(name, actions / min(seconds))}")
        if "simpy" not in engines:
            print("simpy      not installed: left out (`pip install simpy`)")
        is_equal = len(set(hashes.values())) == 1
        print(
            f"hashes {'equal' if is_equal else 'DIFFER'}: {' '.join(sorted(set(hashes.values())))}"
        )
        for fold in (True, False):
            large_step(fold)
    print(f"other programs took {others.share:.1%} of the machine")


def pipeline(ranks: int, microbatches: int) -> SimulatedPlan:
    """Return 1F1B over ``ranks`` stages of one layer each, messages that take time."""
    model = Model(
        layers=ranks,
        hidden=1024,
        heads=8,
        kv_heads=8,
        head_dim=128,
        feed_forward=4096,
        vocabulary=32000,
    )
    plan = Plan(pipeline=ranks, micro_batch=1, micro_batches=microbatches, precision="bfloat16")
    settings = Train(sequence_length=1024, global_batch=microbatches, steps=1)
    cluster = catalogue("dgx-a100", -(-ranks // 8))
    profile = datasheet_profile(cluster.devices[0])
    pricer = Pricer(model, plan, settings.sequence_length, cluster, (profile,))
    return SimulatedPlan(model, plan, settings, cluster, pricer)


def by_turns(engines: Mapping[str, Callable[[], str]], repeats: int) -> dict[str, list[float]]:
    """Return processor seconds of each turn of each engine."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            gc.collect()
            gc.disable()
            begin = time.process_time()
            engine()
            seconds[name].append(time.process_time() - begin)
            gc.enable()
    return seconds


def verdict(name: str, rate: float) -> str:
    """Say whether a rate keeps to its limit."""
    if name not in LIMITS:
        return "no log"
    words = "holds" if rate >= LIMITS[name] else "does not hold"
    return f"hashed (at least {LIMITS[name]:,}): {words}"


def large_step(fold: bool) -> None:
    """Simulate the step of 1,024 devices."""
    begin = time.process_time()
    found = simulate(GPT3_175B, fold=fold).to_dict()
    seconds = time.process_time() - begin
    did = found["simulated"]
    name = "folded" if fold else "unfolded"
    print(
        f"175B on 1,024 A100, {name}: step {found['step_seconds']:.6f} s, {did['actions']:,} "
        f"actions of {did['ranks']:,} ranks in {seconds:.2f} s, planned and all"
    )


def simpy_run(simulated: SimulatedPlan) -> str:
    """The same lists as SimPy processes: one for each rank and each message. Rendezvous, too."""
    import simpy  # type: ignore[import-not-found,unused-ignore]

    environment = simpy.Environment()
    unmet: dict[tuple[int, int], list[tuple[int, Any]]] = {}

    def message(done: Any, other: Any) -> Any:
        yield environment.timeout(1)
        done.succeed()
        other.succeed()

    def post(rank: int, peer: int) -> Any:
        done = environment.event()
        waiting = unmet.setdefault((min(rank, peer), max(rank, peer)), [])
        if waiting and waiting[0][0] != rank:
            environment.process(message(done, waiting.pop(0)[1]))
        else:
            waiting.append((rank, done))
        return done

    def program(rank: int) -> Any:
        posts: list[Any] = []
        of_rank = simulated.programs[rank]
        for row in of_rank.rows.rows:
            if isinstance(row, Compute):
                if row.awaited >= 0:
                    yield posts[row.awaited]
                yield environment.timeout(row.nanoseconds)
            elif isinstance(row, Post):
                posts.append(post(rank, of_rank.others[row.parts[0][0]]))

    for rank in range(len(simulated.programs)):
        environment.process(program(rank))
    environment.run()
    return ""


if __name__ == "__main__":
    main()
