"""Which layers each stage of a pipeline holds."""

from __future__ import annotations


def even_stages(layers: int, stages: int) -> tuple[int, ...]:
    """Return how many consecutive layers each stage holds: equally many, or one more.

    Those with one more stand in the middle, since the first also holds the embedding, and the most
    micro-batches, and the last the head.
    """
    assert 1 <= stages <= layers
    least, more = divmod(layers, stages)
    first = (stages - more) // 2
    return tuple(least + (first <= stage < first + more) for stage in range(stages))
