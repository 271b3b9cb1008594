"""Seconds and wire bytes of collectives, by the transport's real algorithm and the links crossed.

Measured collectives win; between their sizes time is linear in size. Otherwise a ring: every rank
sends in each step, over the slowest link of the ring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.device_profile import DeviceProfile, LinkPoint, OperationName
from antiphon.cost.interpolation import linear
from antiphon.cost.parameters import Amount
from antiphon.cost.work import Operation
from antiphon.spec.cluster import Cluster

Transport = Literal["gloo", "nccl"]
Floats = NDArray[np.float64]

OPERATION_NAMES: dict[Operation, OperationName] = {
    Operation.ALL_REDUCE: "all_reduce",
    Operation.ALL_GATHER: "all_gather",
    Operation.SEND: "send",
}


def wire_nbytes(
    operation: Operation,
    nbytes: Amount,
    ranks: Amount,
    *,
    transport: Transport = "nccl",
    exact: bool = False,
) -> Amount:
    """Return the bytes that each of ``ranks`` sends.

    ``nbytes`` is the payload of one rank: the buffer that is reduced, what one rank gives to an
    all-gather, a message. Both transports reduce in a ring: a reduce-scatter, then an all-gather.
    gloo's reduce-scatter is an all-reduce of which a part is kept. ``exact`` reduces by gathering
    every rank's buffer and summing in rank order.
    """
    match operation:
        case Operation.ALL_REDUCE:
            return (ranks - 1) * nbytes if exact else 2 * (ranks - 1) / ranks * nbytes
        case Operation.ALL_GATHER:
            return (ranks - 1) * nbytes
        case Operation.REDUCE_SCATTER:
            times = 2 if transport == "gloo" else 1
            return times * (ranks - 1) / ranks * nbytes
        case Operation.SEND:
            return nbytes


@dataclass(frozen=True, slots=True)
class Channel:
    """What one rank of a group has towards the others."""

    bandwidth: float  # bytes a second, one direction
    latencies: dict[Operation, float]  # seconds, of starting a collective of the whole group


def channel(cluster: Cluster, ranks: int, distance: int, span: int | None = None) -> Channel:
    """Return what a group has whose ``ranks`` members stand ``distance`` ranks apart.

    Groups are laid out one after the other in blocks of ``span`` ranks (None: as many as it takes),
    and stay within a domain of the cluster if whole blocks fill it. Where a group has several
    members in one node, its rings leave the node over all their network adapters, as NCCL's do:
    each member brings its own, up to what the inner link carries.
    """
    block = ranks * distance if span is None else span
    *inner, outermost = cluster.levels
    crossed = None
    for level in inner:
        if level.devices % block == 0:
            seconds = level.link.latency_seconds
            return Channel(level.link.bandwidth, _latencies(ranks, 1, seconds, seconds))
        crossed = level
    link = outermost.link
    if crossed is None:
        return Channel(
            link.bandwidth, _latencies(ranks, 1, link.latency_seconds, link.latency_seconds)
        )
    together = max(1, crossed.devices // distance)
    bandwidth = min(crossed.link.bandwidth, together * link.bandwidth)
    nodes = max(1, ranks // together)
    latencies = _latencies(ranks, nodes, crossed.link.latency_seconds, link.latency_seconds)
    return Channel(bandwidth, latencies)


def _latencies(
    ranks: int, nodes: int, inner_seconds: float, outer_seconds: float
) -> dict[Operation, float]:
    """Return what NCCL counts (src/graph/tuning.cc): of a ring, or of a tree where it is shorter.

    A ring takes a step for each rank, those between nodes being slower; an all-reduce goes round
    twice. Its tree is a chain within a node and goes up and down between nodes.
    """
    around = (ranks - nodes) * inner_seconds + (nodes - 1) * outer_seconds
    tree = 2 * ((ranks / nodes - 1) * inner_seconds + math.log2(nodes) * outer_seconds)
    return {
        Operation.ALL_REDUCE: min(2 * around, tree) if nodes > 1 else 2 * around,
        Operation.ALL_GATHER: around,
        Operation.REDUCE_SCATTER: around,
        Operation.SEND: inner_seconds if nodes == 1 else outer_seconds,
    }


def collective_seconds(
    operation: Operation,
    nbytes: Amount,
    ranks: Amount,
    bandwidth: Amount,
    latency_seconds: Amount,
    profile: DeviceProfile,
) -> Floats:
    """Return the seconds of a collective that nothing disturbs; 0 in a group of one rank."""
    sent = wire_nbytes(operation, nbytes, ranks)
    seconds = latency_seconds + sent / (bandwidth * profile.link_efficiency)
    return np.where(np.asarray(ranks) > 1, seconds, 0.0)


def measured_seconds(
    operation: Operation, nbytes: Amount, processes: int, profile: DeviceProfile
) -> Floats | None:
    """Return the seconds of a collective between processes of this machine, or None: not measured.

    An operation or a number of processes that was not measured is taken from an all-reduce, or
    from the nearest number, by the bytes that each rank sends.
    """
    if processes == 1:
        return np.zeros(np.shape(nbytes))
    taken = operation
    points = _links(profile, taken)
    if not points:
        taken = Operation.ALL_REDUCE
        points = _links(profile, taken)
    if not points:
        return None
    nearest = min({point.processes for point in points}, key=lambda known: abs(known - processes))
    scale: Any = wire_nbytes(operation, 1.0, processes) / wire_nbytes(taken, 1.0, nearest)
    known = [(point.nbytes, point.seconds) for point in points if point.processes == nearest]
    return linear(np.asarray(nbytes) * scale, known)


def _links(profile: DeviceProfile, operation: Operation) -> list[LinkPoint]:
    name = OPERATION_NAMES.get(operation)
    return [point for point in profile.links if point.operation == name]
