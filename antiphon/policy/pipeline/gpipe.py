"""The GPipe schedule: Huang et al., NeurIPS 2019, arXiv 1811.06965, section 2.3."""

from collections.abc import Iterator

from antiphon.policy.pipeline.action import Action, backward, forward, holds
from antiphon.registry import policy


@policy
@holds(lambda _stage, _stages, microbatches: microbatches)
def gpipe(stage: int, stages: int, microbatches: int) -> Iterator[Action]:
    """Yield the computations of one stage in order; sends and receives are derived from them.

    Backwards go in the order of the forwards, as in torch (the paper's figure 2 draws them in the
    reverse), so that gradients are summed in the same order as under every other schedule. A
    stage holds the activations of all micro-batches. With equal stages the pipeline idles for
    ``(stages - 1) / microbatches`` of its computing time.
    """
    assert 0 <= stage < stages
    assert microbatches > 0
    for microbatch in range(microbatches):
        yield forward(stage, microbatch)
    for microbatch in range(microbatches):
        yield backward(stage, microbatch)
