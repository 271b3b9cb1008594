"""The layer table: what one micro-batch costs in each part, for every way of splitting it.

The first of estimate's small tables, and the only place where shapes are looked up. Its rows are
the distinct (tensor degree, micro-batch, recomputation, processes) of all candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.collective import channel, collective_seconds, wire_nbytes
from antiphon.cost.device_profile import DeviceProfile, Share
from antiphon.cost.inventory import Setting, inventory
from antiphon.cost.memory import Footprint, footprint
from antiphon.cost.roofline import part_seconds
from antiphon.cost.work import Kind, Operation, Part, Phase, Work
from antiphon.spec.cluster import Cluster
from antiphon.spec.model import Model
from antiphon.spec.plan import Precision, Recompute

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Profiles = tuple[DeviceProfile, ...]

RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
PARTS = (Part.EMBEDDING, Part.LAYER, Part.HEAD)
PHASES = (Phase.FORWARD, Phase.BACKWARD)


@dataclass(frozen=True, slots=True)
class Split:
    """How one micro-batch is computed by one rank: columns, a row for each way."""

    tensor: Integers
    micro_batch: Integers
    recompute: Integers  # index into RECOMPUTES
    processes: Integers  # that share the device
    threads: Integers  # of each; 0 where the device is no processor


@dataclass(frozen=True, slots=True)
class LayerTable:
    """Costs of one micro-batch by row of a Split. ``layer`` is one layer.

    Seconds by (part, phase): ``computing`` without, ``tensor_seconds`` of the tensor-parallel
    collectives inside, whose bytes are ``tensor_wire``.
    """

    computing: dict[tuple[Part, Phase], Floats]
    tensor_seconds: dict[tuple[Part, Phase], Floats]
    tensor_wire: dict[Part, Floats]  # sent by a rank, forward and backward
    footprint: Footprint
    is_measured: NDArray[np.bool_]  # all of it, as these very blocks


def layer_table(
    model: Model,
    sequence_length: int,
    precision: Precision,
    split: Split,
    cluster: Cluster,
    profiles: Profiles,
) -> LayerTable:
    """Price every row. Of several kinds of device the slowest counts: all wait for it."""
    size = len(split.tensor)
    keys = [(part, phase) for part in PARTS for phase in PHASES]
    computing = {key: np.zeros(size) for key in keys}
    tensor_seconds = {key: np.zeros(size) for key in keys}
    wire = {part: np.zeros(size) for part in PARTS}
    kept = {field.name: np.zeros(size) for field in fields(Footprint)}
    is_measured = np.ones(size, np.bool_)
    for rows, recompute, share in _blocks(split):
        setting = Setting(split.tensor[rows], split.micro_batch[rows], sequence_length, precision)
        for part, phase in keys:
            priced = [
                part_seconds(profile, model, part, phase, setting, recompute, share)
                for profile in profiles
            ]
            computing[part, phase][rows] = slowest(seconds for seconds, _ in priced)
            is_measured[rows] &= np.logical_and.reduce([measured for _, measured in priced])
            work = inventory(model, part, phase, setting, recompute)
            seconds, sent = _tensor_parallel(work, split.tensor[rows], cluster, profiles)
            tensor_seconds[part, phase][rows] = seconds
            wire[part][rows] += sent
        needed = footprint(model, setting, recompute)
        for name, column in kept.items():
            column[rows] = getattr(needed, name)
    return LayerTable(computing, tensor_seconds, wire, Footprint(**kept), is_measured)


def slowest(prices: Iterable[Floats]) -> Floats:
    """Return the greatest of the prices that several devices have, entry by entry."""
    return reduce(np.maximum, prices)


def by_value(keys: Integers, price: Callable[[int], float]) -> Floats:
    """Return ``price`` of each key, asked once for each distinct one."""
    distinct, where = np.unique(keys, return_inverse=True)
    return np.array([price(int(key)) for key in distinct])[where]


def _blocks(split: Split) -> Iterator[tuple[Integers, Recompute, Share]]:
    """Rows that differ in tensor degree and micro-batch alone, together."""
    columns = np.stack([split.recompute, split.processes, split.threads], axis=1)
    for distinct in np.unique(columns, axis=0):
        rows = np.flatnonzero((columns == distinct).all(axis=1))
        recompute, processes, threads = (int(number) for number in distinct)
        yield rows, RECOMPUTES[recompute], Share(processes, threads)


def _tensor_parallel(
    work: Work, tensor: Integers, cluster: Cluster, profiles: Profiles
) -> tuple[Floats, Floats]:
    """Seconds and bytes sent by a rank of the collectives inside ``work``."""
    rows = work.kind == Kind.COLLECTIVE
    nbytes, operation = work.nbytes[rows], Operation.ALL_REDUCE
    if (tensor == 1).all():
        return np.zeros(len(tensor)), np.zeros(len(tensor))
    bandwidth = by_value(tensor, lambda ranks: channel(cluster, ranks, 1).bandwidth)
    latency = by_value(tensor, lambda ranks: channel(cluster, ranks, 1).latencies[operation])
    seconds = slowest(
        collective_seconds(operation, nbytes, tensor, bandwidth, latency, profile)
        for profile in profiles
    )
    sent = np.asarray(wire_nbytes(operation, nbytes, tensor))
    return seconds.sum(axis=0), sent.sum(axis=0)
