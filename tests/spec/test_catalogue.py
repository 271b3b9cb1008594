"""Described machines: the catalogue's figures, and cluster files that users write."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.errors import JobError
from antiphon.spec.catalogue import catalogue, device, devices, read_cluster, systems

MINE = """\
name = "mine"

[devices.old]
memory_nbytes = 17_179_869_184
memory_bandwidth = 900e9
peak_flops = { float32 = 15.7e12, float16 = 125e12 }
source = "a datasheet"

[[nodes]]
devices = { old = 1, h100-sxm = 2 }

[[nodes]]
devices = { old = 3 }
count = 2

[[levels]]
name = "node"
devices = 3
link = { name = "PCIe", bandwidth = 32e9, latency_seconds = 5e-6, source = "a guess" }

[[levels]]
name = "cluster"
link = { name = "Ethernet", bandwidth = 1.25e9, latency_seconds = 50e-6, source = "a guess" }
"""


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    read_cluster(path)


def test_the_catalogue_has_what_the_documentation_says() -> None:
    assert systems() == ("dgx-a100", "dgx-a100-40gb", "dgx-h100")
    assert devices() == ("a100-40gb", "a100-80gb", "h100-sxm")


@pytest.mark.parametrize("name", ["a100-40gb", "a100-80gb", "h100-sxm"])
def test_every_device_names_its_source(name: str) -> None:
    found = device(name)
    assert found.name == name
    assert "NVIDIA" in found.source
    assert "datasheet" in found.source
    # Tensor Cores: half the bits, twice the rate, within the rounding of the datasheet.
    assert found.peak_flops["bfloat16"] / found.peak_flops["tf32"] == pytest.approx(2, rel=1e-3)


def test_float8_came_with_the_h100() -> None:
    assert "float8" in device("h100-sxm").peak_flops
    assert "float8" not in device("a100-80gb").peak_flops


@pytest.mark.parametrize("name", ["dgx-a100", "dgx-a100-40gb", "dgx-h100"])
def test_every_link_says_where_its_latency_is_from(name: str) -> None:
    for level in catalogue(name).levels:
        assert "datasheet" in level.link.source
        assert "latency: NCCL" in level.link.source


@pytest.mark.parametrize(
    ("name", "node", "network"), [("dgx-a100", 300e9, 25e9), ("dgx-h100", 450e9, 50e9)]
)
def test_ranks_of_a_node_reach_each_other_over_its_own_link(
    name: str, node: float, network: float
) -> None:
    cluster = catalogue(name, 4)
    assert len(cluster.devices) == 32
    assert [cluster.link(span).bandwidth for span in (1, 8, 9, 32)] == [
        node,
        node,
        network,
        network,
    ]


def test_a_single_system_has_no_network_between_its_devices() -> None:
    cluster = catalogue("dgx-h100")
    assert cluster.link(8).name.startswith("NVLink")


def test_unequal_devices_are_in_rank_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    cluster = read_cluster(path)
    names = [device.name for device in cluster.devices]
    assert names == ["old", "h100-sxm", "h100-sxm", *["old"] * 6]
    assert cluster.levels[-1].devices == 9
    assert (cluster.link(3).name, cluster.link(4).name) == ("PCIe", "Ethernet")


@pytest.mark.parametrize(
    ("old", "new", "key", "line", "problem"),
    [
        ("{ old = 3 }", "{ odl = 3 }", "nodes[1].devices.odl", 13, "no device is called `odl`"),
        ("count = 2", "cuont = 2", "nodes[1].cuont", 14, "not a key of [nodes[1]]"),
        ("count = 2", "count = 0", "nodes[1].count", 14, "`0` is less than 1"),
        ("float16 =", "flaot16 =", "devices.old.peak_flops.flaot16", 6, "not one of the choices"),
        ("125e12", "-1", "devices.old.peak_flops.float16", 6, "not more than 0"),
        ("32e9", "inf", "levels[0].link.bandwidth", 19, "not a finite number"),
        ("devices = 3\n", "devices = 99\n", "levels", 16, "do not grow outwards"),
        ('name = "cluster"', 'name = "cluster"\ndevices = 8', "levels", 16, "8 of the 9 devices"),
        ('name = "mine"', "", "name", None, "is missing"),
    ],
)
def test_a_mistake_in_a_cluster_file_has_its_line(
    tmp_path: Path, old: str, new: str, key: str, line: int | None, problem: str
) -> None:
    assert old in MINE
    with pytest.raises(JobError) as refusal:
        read(tmp_path, MINE.replace(old, new))
    mistake = refusal.value.mistakes[0]
    assert (mistake.key, mistake.line) == (key, line)
    assert problem in mistake.problem


def test_an_unknown_system_is_told_what_there_is() -> None:
    with pytest.raises(JobError, match=r"dgx-a100, dgx-a100-40gb, dgx-h100.*nearest is dgx-h100"):
        catalogue("dgx-h1000")
