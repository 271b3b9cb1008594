"""Times of collectives between the processes of this machine, over the transport that runs use."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from antiphon.backend.profile.measurer import Measurer
from antiphon.backend.profile.stopwatch import median
from antiphon.cost.device_profile import LinkPoint

LINK_NBYTES = (4096, 2**18, 2**20, 2**22, 2**24)
LINK_REPEATS = 7


def measure_links(measurer: Measurer) -> None:
    """Measure sums over all ranks by size, each alone, while nothing is computed."""
    world = measurer.world

    async def reduce_all(payload: Tensor) -> list[float]:
        group = await world.group(range(world.ranks), "profile")
        times = []
        for _ in range(1 + LINK_REPEATS):
            await world.barrier(group)
            begin = time.perf_counter()
            await world.all_reduce(group, payload)
            times.append(time.perf_counter() - begin)
        return times[1:]

    for nbytes in LINK_NBYTES:
        seconds = median(world.run(reduce_all(torch.zeros(nbytes // 4))))
        measurer.links.append(
            LinkPoint(operation="all_reduce", processes=world.ranks, nbytes=nbytes, seconds=seconds)
        )
