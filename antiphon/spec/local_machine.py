"""The machine at hand as a cluster, from what its system says without measuring anything.

Rates are guesses from the width of the vector units and the clock; every ``source`` says so. The
profile that ``antiphon profile`` measures takes their place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from antiphon.spec.cluster import Cluster, Device, Level, Link, Node

# Float32 operations in one cycle of one core, with two fused multiply-add units (a multiplication
# and an addition each): the widest vector that the processor's flags name decides.
_FLOPS_PER_CYCLE = {"avx512f": 64, "avx2": 32, "asimd": 16, "avx": 16}
_FLOPS_PER_CYCLE_OTHERWISE = 8
# How many times faster than float32 a core multiplies bfloat16, by the instructions it has.
_BFLOAT16_SPEEDUP = {"amx_bf16": 16, "avx512_bf16": 2, "bf16": 2}
_CLOCK_OTHERWISE = 2e9  # hertz, where the system tells none
_MEMORY_BANDWIDTH_PER_CORE = 10e9  # bytes a second: between a desktop's and a server's
# A 64 MB send between two processes over loopback, and small messages, as measured with gloo on two
# cores; both move by a factor of two and more between machines.
_LINK_BANDWIDTH = 2.5e9
_LINK_LATENCY_SECONDS = 0.2e-3


@dataclass(frozen=True, slots=True)
class Processor:
    """What the system says of this machine's processor. ``cores`` are physical, and ours to use."""

    name: str
    cores: int
    clock: float  # hertz
    flags: frozenset[str]


def local_cluster(processes: int) -> Cluster:
    """This machine, its processor and memory shared into ``processes`` equal devices."""
    assert processes >= 1
    processor, memory = read_processor(), read_memory_nbytes()
    share = _device(processor, memory, processes)
    link = Link(
        name="loopback",
        bandwidth=_LINK_BANDWIDTH,
        latency_seconds=_LINK_LATENCY_SECONDS,
        source="rough: gloo over loopback on another machine; not measured here",
    )
    return Cluster(
        name="local",
        nodes=(Node(devices=(share,) * processes, memory_nbytes=memory),),
        levels=(Level(name="node", devices=processes, link=link),),
    )


def read_processor(root: Path = Path("/")) -> Processor:
    """The processor as /proc/cpuinfo and the process's affinity tell, under ``root``."""
    usable = _usable()
    blocks = [block for block in _cpuinfo(root) if int(block.get("processor", 0)) in usable]
    if not blocks:
        return Processor("processor", len(usable), _CLOCK_OTHERWISE, frozenset())
    first = blocks[0]
    threads = [(block.get("physical id"), block.get("core id")) for block in blocks]
    # Two hardware threads of one core share its vector units. ARM names no cores: each is one.
    cores = len(set(threads)) if threads[0][1] is not None else len(blocks)
    megahertz = [float(block["cpu MHz"]) for block in blocks if "cpu MHz" in block]
    return Processor(
        name=first.get("model name", "processor"),
        cores=cores,
        clock=max(megahertz) * 1e6 if megahertz else _CLOCK_OTHERWISE,
        flags=frozenset((first.get("flags") or first.get("Features") or "").split()),
    )


def read_memory_nbytes(root: Path = Path("/")) -> int:
    """Memory that this process may use: of the machine, or of its control group if that is less."""
    return min((_machine_memory(root), *_control_group_limits(root)))


def _device(processor: Processor, memory: int, processes: int) -> Device:
    per_cycle = next(
        (flops for flag, flops in _FLOPS_PER_CYCLE.items() if flag in processor.flags),
        _FLOPS_PER_CYCLE_OTHERWISE,
    )
    speedup = next(
        (times for flag, times in _BFLOAT16_SPEEDUP.items() if flag in processor.flags), 1
    )
    float32 = per_cycle * processor.clock * processor.cores / processes
    return Device(
        name="processor",
        memory_nbytes=memory // processes,
        peak_flops={
            "float64": float32 / 2,
            "float32": float32,
            "bfloat16": float32 * speedup,
            "float16": float32,
        },
        memory_bandwidth=_MEMORY_BANDWIDTH_PER_CORE * processor.cores / processes,
        source=(
            f"rough: {processor.name}, {processor.cores} cores at {processor.clock / 1e9:.1f} GHz "
            f"x {per_cycle} float32 operations a cycle, shared by {processes}; not measured"
        ),
    )


def _usable() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """One table for each hardware thread; none where the system has no /proc/cpuinfo."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [
        {key.strip(): value.strip() for key, _, value in map(_halves, block.splitlines())}
        for block in text.strip().split("\n\n")
        if block.startswith("processor")
    ]


def _halves(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _machine_memory(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    [total] = [line for line in lines if line.startswith("MemTotal:")]
    return int(total.split()[1]) * 1024


def _control_group_limits(root: Path) -> Iterator[int]:
    """Limits of this process's control group and of those around it, version 2 or 1.

    Inside a container the path may be the host's, so that only the root of the mount is there.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers == "":
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = mount / path.strip("/")
        for folder in (inner, *inner.parents):
            limit = _limit(folder / file)
            if limit is not None:
                yield limit
            if folder == mount:
                break


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return None if text == "max" else int(text)
