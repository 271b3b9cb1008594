"""Models, devices and clusters that tests of cost price."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from antiphon.cost.device_profile import DeviceProfile
from antiphon.spec.cluster import Cluster, Device, Level, Link, Node
from antiphon.spec.model import Model

MakeModel = Callable[..., Model]
MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Return what makes a small model; keywords replace its figures."""

    def make(**changes: object) -> Model:
        figures = {
            "layers": 4,
            "hidden": 64,
            "heads": 4,
            "kv_heads": 2,
            "head_dim": 16,
            "feed_forward": 176,
            "vocabulary": 512,
        }
        return Model.model_validate(figures | changes)

    return make


@pytest.fixture(scope="session")
def profile() -> DeviceProfile:
    """A device of round figures: 1 TFLOP/s, 100 GB/s, all of it reached."""
    return DeviceProfile(
        device="round",
        basis="fitted",
        source="made up",
        peak_flops={"float32": 1e12, "bfloat16": 4e12, "float64": 5e11},
        memory_bandwidth=1e11,
        contention=0.0,
    )


@pytest.fixture(scope="session")
def make_cluster() -> MakeCluster:
    """Return what makes a cluster of nodes of 8 devices."""

    def make(nodes: int = 1, bandwidth: float = 1e11, latency_seconds: float = 1e-6) -> Cluster:
        device = Device(
            name="round",
            memory_nbytes=2**34,
            peak_flops={"float32": 1e12, "bfloat16": 4e12},
            memory_bandwidth=1e11,
            source="made up",
        )

        def link(name: str, bandwidth: float, seconds: float) -> Link:
            return Link(name=name, bandwidth=bandwidth, latency_seconds=seconds, source="made up")

        return Cluster(
            name="test",
            nodes=(Node(devices=(device,) * 8, count=nodes),),
            levels=(
                Level(name="node", devices=8, link=link("in", bandwidth, latency_seconds)),
                Level(
                    name="cluster",
                    devices=8 * nodes,
                    link=link("out", bandwidth / 10, 10 * latency_seconds),
                ),
            ),
        )

    return make
