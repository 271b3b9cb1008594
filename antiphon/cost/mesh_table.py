"""The mesh table: what a step costs by (data, tensor, pipeline) alone, stage by stage.

The second of estimate's small tables: parameters held, gradients reduced, the update, the links
between stages. Ranks are ordered tensor innermost, then data, then pipeline: what communicates most
is nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.collective import (
    Channel,
    channel,
    collective_seconds,
    measured_seconds,
    wire_nbytes,
)
from antiphon.cost.device_profile import DeviceProfile, Share
from antiphon.cost.inventory import update_work
from antiphon.cost.layer_table import Floats, Integers, Profiles, slowest
from antiphon.cost.parameters import embedding_parameters, head_parameters, layer_parameters
from antiphon.cost.roofline import work_seconds
from antiphon.cost.work import Operation, state_itemsize
from antiphon.spec.cluster import Cluster
from antiphon.spec.model import Model
from antiphon.spec.plan import Precision


@dataclass(frozen=True, slots=True)
class Meshes:
    """Ways to lay ranks out: columns, a row for each."""

    data: Integers
    tensor: Integers
    pipeline: Integers
    processes: Integers  # that share a device: 1, or all of them on a machine's processor
    threads: Integers  # of each; 0 where the device is no processor


@dataclass(frozen=True, slots=True)
class Stages:
    """What the stages of pipelines of one depth hold."""

    layers: Integers  # (stages,)

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """Where the embedding is."""
        return np.asarray(np.arange(len(self.layers)) == 0)

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Where the head is."""
        return np.asarray(np.arange(len(self.layers)) == len(self.layers) - 1)

    def total(self, embedding: Floats, layer: Floats, head: Floats) -> Floats:
        """Add up what parts cost: from (rows,) each to (rows, stages)."""
        return np.asarray(
            self.layers * layer[:, None]
            + self.is_first * embedding[:, None]
            + self.is_last * head[:, None]
        )


@dataclass(frozen=True, slots=True)
class MeshTable:
    """Costs by mesh of one pipeline depth: (meshes, stages), or (meshes,) where it says so."""

    parameters: Floats
    update_seconds: Floats
    reduce_seconds: Floats  # of all buckets of gradients, one after the other
    last_bucket_seconds: Floats  # of the one that no computation is left to hide
    first_bucket_share: Floats  # of the gradients: of a backward before the first reduction starts
    tied_seconds: Floats  # (meshes,); both ends of a pipeline hold a tied embedding
    wire_nbytes: Floats  # of the reductions, sent by a rank
    message_bandwidth: Floats  # (meshes,), from stage to stage
    message_latency_seconds: Floats  # (meshes,)


@dataclass(frozen=True, slots=True)
class Reducer:
    """How gradients are summed."""

    profiles: Profiles
    bucket_nbytes: int
    exact: bool  # in rank order

    def seconds(self, nbytes: Floats, ranks: int, link: Channel) -> Floats:
        """Return the seconds of reductions of ``nbytes`` over ``ranks``."""
        if ranks == 1:
            return np.zeros(nbytes.shape)
        return slowest(self._seconds(nbytes, ranks, link, profile) for profile in self.profiles)

    def _seconds(self, nbytes: Floats, ranks: int, link: Channel, profile: DeviceProfile) -> Floats:
        operation = Operation.ALL_GATHER if self.exact else Operation.ALL_REDUCE
        seconds = measured_seconds(operation, nbytes, ranks, profile)
        if seconds is None:
            seconds = collective_seconds(
                operation, nbytes, ranks, link.bandwidth, link.latencies[operation], profile
            )
        if self.exact:  # every rank then reads all buffers and writes their sum
            seconds = seconds + (ranks + 1) * nbytes / profile.memory_bandwidth
        return seconds


def mesh_table(
    model: Model,
    precision: Precision,
    cluster: Cluster,
    meshes: Meshes,
    stages: Stages,
    reducer: Reducer,
) -> MeshTable:
    """Price meshes that all have as many stages as ``stages``."""
    depth, itemsize = len(stages.layers), state_itemsize(precision)
    embedding = np.asarray(embedding_parameters(model, meshes.tensor))
    layer = np.asarray(layer_parameters(model, meshes.tensor), np.float64)
    head = np.asarray(head_parameters(model, meshes.tensor, depth == 1), np.float64)
    parameters = stages.total(embedding, layer, np.broadcast_to(head, layer.shape))
    gradients = itemsize * parameters
    buckets = np.maximum(1, np.ceil(gradients / reducer.bucket_nbytes))
    last = np.where(stages.is_first, itemsize * embedding[:, None], 0)  # in one tensor, and last
    last = np.minimum(np.maximum(last, reducer.bucket_nbytes), gradients)
    tied = itemsize * embedding * (model.tied_embeddings and depth > 1)
    sent = wire_nbytes(
        Operation.ALL_REDUCE, gradients, meshes.data[:, None], exact=reducer.exact
    ) + np.outer(tied, stages.is_first | stages.is_last)
    replicas = [
        channel(cluster, data, tensor)
        for data, tensor in zip(meshes.data.tolist(), meshes.tensor.tolist(), strict=True)
    ]
    hops = [channel(cluster, depth, apart) for apart in (meshes.tensor * meshes.data).tolist()]
    return MeshTable(
        parameters=parameters,
        update_seconds=_update_seconds(meshes, parameters, precision, reducer.profiles),
        reduce_seconds=buckets * _reduce(reducer, gradients / buckets, meshes.data, replicas),
        last_bucket_seconds=_reduce(reducer, last, meshes.data, replicas),
        first_bucket_share=np.minimum(reducer.bucket_nbytes / gradients, 1.0),
        tied_seconds=_reduce(reducer, tied, np.where(tied > 0, 2, 1), hops),
        wire_nbytes=np.asarray(sent),
        message_bandwidth=np.array([hop.bandwidth for hop in hops]),
        message_latency_seconds=np.array([hop.latencies[Operation.SEND] for hop in hops]),
    )


def _reduce(reducer: Reducer, nbytes: Floats, ranks: Integers, links: Sequence[Channel]) -> Floats:
    """Price one row of ``nbytes`` for each mesh."""
    return np.array(
        [
            reducer.seconds(row, size, link)
            for row, size, link in zip(nbytes, ranks.tolist(), links, strict=True)
        ]
    )


def _update_seconds(
    meshes: Meshes, parameters: Floats, precision: Precision, profiles: Profiles
) -> Floats:
    work = update_work(parameters, precision)
    seconds = np.zeros(parameters.shape)
    shares = np.stack([meshes.processes, meshes.threads], axis=1)
    for processes, threads in np.unique(shares, axis=0):
        rows = (meshes.processes == processes) & (meshes.threads == threads)
        share = Share(int(processes), int(threads))
        priced = slowest(work_seconds(profile, work, share)[0] for profile in profiles)
        seconds[rows] = priced[rows]
    return seconds
