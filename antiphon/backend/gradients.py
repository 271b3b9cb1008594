"""Gradients in flat buckets, and when each of them is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class GradientBuckets:
    """Gradients as views of flat buffers, so that a collective works on many of them at once."""

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[Sequence[str]],
        complete: Callable[[int], None],
    ) -> None:
        """``complete`` is called for each bucket, in order, once a backward has filled it."""
        parameters = dict(module.named_parameters())
        self._complete = complete
        self._sizes = [len(bucket) for bucket in names]
        self._missing = list(self._sizes)
        self._next = 0
        self.flat: list[Tensor] = []
        for number, bucket in enumerate(names):
            is_last = number == len(names) - 1
            size = sum(parameters[name].numel() for name in bucket)
            self.flat.append(parameters[bucket[0]].new_zeros(size + is_last))
            offset = 0
            for name in bucket:
                parameter = parameters[name]
                flat = self.flat[-1][offset : offset + parameter.numel()]
                parameter.grad = flat.view_as(parameter)
                hook = self._hook(number)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
                offset += parameter.numel()
        self.loss = self.flat[-1][-1]  # rides along: one collective less in each step

    def clear(self) -> None:
        """Begin a step."""
        for flat in self.flat:
            flat.zero_()

    def _hook(self, bucket: int) -> Callable[[Tensor], None]:
        def filled(_: Tensor) -> None:
            self._missing[bucket] -= 1
            while self._next < len(self._missing) and self._missing[self._next] == 0:
                self._complete(self._next)
                self._next += 1
            if self._next == len(self._missing):  # this backward has ended
                self._missing = list(self._sizes)
                self._next = 0

        return filled
