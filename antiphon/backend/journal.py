"""What one rank did and when: spans on its lanes, for the trace of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path

FORMAT = 1


class SpanLog:
    """Spans of (lane, name, begin, end), kept in memory and written as JSON lines.

    Appending is safe from any thread. Times are the machine's monotonic clock in nanoseconds,
    which the processes of one machine share.
    """

    def __init__(self, path: Path | None, rank: int) -> None:
        """``path`` None keeps nothing."""
        self._path = path
        self._spans: list[tuple[str, str, int, int]] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            header = {"format": FORMAT, "rank": rank, "columns": ["lane", "name", "begin", "end"]}
            path.write_text(json.dumps(header) + "\n")

    def span(self, lane: str, name: str, begin: int, end: int) -> None:
        """Record that ``name`` ran on ``lane`` from ``begin`` to ``end`` nanoseconds."""
        if self._path is not None:
            self._spans.append((lane, name, begin, end))

    def flush(self) -> None:
        """Write what has gathered."""
        if self._path is not None and self._spans:
            spans, self._spans = self._spans, []
            with self._path.open("a") as file:
                file.writelines(json.dumps(span) + "\n" for span in spans)


def nanoseconds() -> int:
    """Return the clock that spans are measured by."""
    return time.monotonic_ns()
