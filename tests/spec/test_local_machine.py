"""This machine is described from what its system says, and nothing rough passes for measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from antiphon.spec import local_machine
from antiphon.spec.local_machine import local_cluster, read_memory_nbytes, read_processor


def cpuinfo(threads: list[tuple[int, int]], flags: str = "fpu avx2 fma avx512f") -> str:
    """An x86 /proc/cpuinfo with one block for each (processor, core)."""
    return "".join(
        f"processor\t: {processor}\nmodel name\t: Maker X: 9000\ncpu MHz\t\t: 2500.000\n"
        f"physical id\t: 0\ncore id\t\t: {core}\nflags\t\t: {flags}\n\n"
        for processor, core in threads
    )


def machine(root: Path, **files: str) -> Path:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_machine, "_usable", lambda: {0, 1, 2, 3})


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_machine_equally(processes: int) -> None:
    cluster, whole = local_cluster(processes), local_cluster(1).devices[0]
    assert len(cluster.devices) == processes
    assert len({device.memory_nbytes for device in cluster.devices}) == 1
    share = cluster.devices[0]
    assert share.memory_nbytes == whole.memory_nbytes // processes
    assert share.peak_flops["float32"] == pytest.approx(whole.peak_flops["float32"] / processes)
    assert not cluster.mistakes()
    assert cluster.link(processes).name == "loopback"


def test_rough_figures_say_so() -> None:
    cluster = local_cluster(2)
    sources = [cluster.devices[0].source, cluster.levels[0].link.source]
    assert all(source.startswith("rough: ") and "not measured" in source for source in sources)


def test_memory_is_no_more_than_the_machine_has() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < read_memory_nbytes() <= physical


@pytest.mark.usefixtures("four_threads")
def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__cpuinfo=cpuinfo([(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]))
    processor = read_processor(root)
    assert (processor.name, processor.cores, processor.clock) == ("Maker X: 9000", 2, 2.5e9)
    assert "avx512f" in processor.flags


@pytest.mark.usefixtures("four_threads")
def test_a_processor_that_names_no_cores_or_clock_is_read(tmp_path: Path) -> None:
    blocks = "".join(f"processor : {n}\nFeatures : fp asimd bf16\n\n" for n in range(4))
    processor = read_processor(machine(tmp_path, proc__cpuinfo=blocks + "Hardware : ARM\n"))
    assert processor.cores == 4
    assert processor.flags == frozenset({"fp", "asimd", "bf16"})


@pytest.mark.usefixtures("four_threads")
def test_a_system_without_proc_is_described_all_the_same(tmp_path: Path) -> None:
    assert read_processor(tmp_path).cores == 4
    assert read_memory_nbytes(tmp_path) > 0


MEMINFO = "MemTotal:       1000 kB\nMemFree: 900 kB\n"


@pytest.mark.parametrize(
    ("files", "nbytes"),
    [
        ({}, 1_024_000),
        ({"proc__self__cgroup": "0::/a/b\n", "sys__fs__cgroup__a__memory_dot_max": "5000"}, 5000),
        (
            {"proc__self__cgroup": "0::/a\n", "sys__fs__cgroup__a__memory_dot_max": "max\n"},
            1_024_000,
        ),
        ({"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory_dot_max": "5000\n"}, 5000),
        (
            {
                "proc__self__cgroup": "3:cpuset:/\n4:cpu,memory:/host/path\n",
                "sys__fs__cgroup__memory__memory_dot_limit_in_bytes": "6000",
            },
            6000,
        ),
        (
            {
                "proc__self__cgroup": "4:memory:/\n",
                "sys__fs__cgroup__memory__memory_dot_limit_in_bytes": "9223372036854771712",
            },
            1_024_000,
        ),
    ],
)
def test_a_control_group_limits_memory(tmp_path: Path, files: dict[str, str], nbytes: int) -> None:
    assert read_memory_nbytes(machine(tmp_path, proc__meminfo=MEMINFO, **files)) == nbytes
