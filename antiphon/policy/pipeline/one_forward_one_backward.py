"""The 1F1B schedule (PipeDream-Flush): Narayanan et al., SC 2021, arXiv 2104.04473, 2.2.1."""

from collections.abc import Iterator

from antiphon.policy.pipeline.action import Action, backward, forward, holds
from antiphon.registry import policy

ALIASES = ("1f1b", "pipedream-flush")


@policy
@holds(lambda stage, stages, microbatches: min(stages - stage, microbatches))
def one_forward_one_backward(stage: int, stages: int, microbatches: int) -> Iterator[Action]:
    """Yield the computations of one stage in order; sends and receives are derived from them.

    A stage holds the activations of at most ``stages - stage`` micro-batches. With equal stages
    the pipeline idles for ``(stages - 1) / microbatches`` of its computing time.
    """
    assert 0 <= stage < stages
    assert microbatches > 0
    warmup = min(stages - stage - 1, microbatches)
    for microbatch in range(warmup):
        yield forward(stage, microbatch)
    for microbatch in range(warmup, microbatches):
        yield forward(stage, microbatch)
        yield backward(stage, microbatch - warmup)
    for microbatch in range(microbatches - warmup, microbatches):
        yield backward(stage, microbatch)
