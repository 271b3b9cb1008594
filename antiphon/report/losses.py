"""The loss over the steps of a run as a picture in the terminal, axes and all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

Point = tuple[int, float]  # step, loss
Cell = tuple[int, int]  # column from the left, row from the top

# A character of braille is two dots wide and four high: U+2800 plus these, row by row.
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_DOTS_WIDE, _DOTS_HIGH = 2, 4

_FLAT = 1e-9  # losses that differ by less are one

_TRAINING = Style(color="cyan")
_VALIDATION = Style(color="yellow", bold=True)


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Training losses as a line, validation losses as marks, for Rich to print.

    ``first_step`` is how many steps an earlier run had done: the first loss is that of the next.
    Losses that are not finite are left out and counted below the picture.
    """

    losses: Sequence[float]
    validation: Sequence[Point] = ()
    first_step: int = 0
    height: int = 10  # rows of the picture
    width: int = 80  # at most, with the axis

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        steps = enumerate(self.losses, self.first_step + 1)
        losses = [(step, loss) for step, loss in steps if isfinite(loss)]
        validation = [(step, loss) for step, loss in self.validation if isfinite(loss)]
        if losses:
            yield from self._picture(losses, validation, options)
        missing = len(self.losses) - len(losses)
        if missing:
            steps_word = "step" if missing == 1 else "steps"
            yield Segment(f"{missing} {steps_word} had a loss that is no finite number\n")

    def _picture(
        self, losses: list[Point], validation: list[Point], options: ConsoleOptions
    ) -> RenderResult:
        frame = _Frame.around([*losses, *validation])
        labelled = (0, self.height // 2, self.height - 1)
        labels = {row: f"{frame.loss(row, self.height):.3g}" for row in labelled}
        margin = max(map(len, labels.values())) + 2
        columns = max(8, min(self.width, options.max_width) - margin)
        plain = options.ascii_only
        dots = (1, 1) if plain else (_DOTS_WIDE, _DOTS_HIGH)
        drawn = _line(losses, frame, columns * dots[0], self.height * dots[1])
        line = _characters(drawn, plain)
        marks = {frame.cell(point, columns, self.height) for point in validation}
        mark = "o" if plain else "●"
        for row in range(self.height):
            yield Segment(f"{labels.get(row, ''):>{margin - 2}} ")
            yield Segment("|" if plain else ("┤" if row in labels else "│"))
            for column in range(columns):
                if (column, row) in marks:
                    yield Segment(mark, _VALIDATION)
                else:
                    yield Segment(line.get((column, row), " "), _TRAINING)
            yield Segment.line()
        yield Segment(
            f"{'':{margin - 1}}{'+' if plain else '└'}{('-' if plain else '─') * columns}\n"
        )
        left = f"step {frame.first}"
        right = str(frame.last) if frame.last > frame.first else ""
        yield Segment(f"{'':{margin}}{left}{right:>{columns - len(left)}}\n")
        yield Segment(f"{'':{margin}}loss: ")
        yield Segment(f"{'*' if plain else '⠒⠒'} training", _TRAINING)
        if validation:
            yield Segment("  ")
            yield Segment(f"{mark} validation", _VALIDATION)
        yield Segment.line()


@dataclass(frozen=True, slots=True)
class _Frame:
    """The steps and losses that the edges of a picture stand for."""

    first: int
    last: int
    lowest: float
    highest: float

    @classmethod
    def around(cls, points: Iterable[Point]) -> _Frame:
        steps, losses = zip(*points, strict=True)
        lowest, highest = min(losses), max(losses)
        if highest - lowest < _FLAT:  # a flat line, drawn in the middle
            margin = max(_FLAT, abs(lowest) / 20)
            lowest, highest = lowest - margin, highest + margin
        return cls(min(steps), max(steps), lowest, highest)

    def loss(self, row: int, rows: int) -> float:
        """The loss that ``row`` of ``rows`` stands for."""
        return self.highest - (self.highest - self.lowest) * row / (rows - 1)

    def cell(self, point: Point, columns: int, rows: int) -> Cell:
        """Where ``point`` lies in a grid of ``columns`` by ``rows``."""
        step, loss = point
        right = (step - self.first) / max(1, self.last - self.first)
        down = (self.highest - loss) / (self.highest - self.lowest)
        return round(right * (columns - 1)), round(down * (rows - 1))


def _line(points: list[Point], frame: _Frame, columns: int, rows: int) -> set[Cell]:
    """The cells of a line through ``points``: one a column, the mean of what falls in it."""
    fallen: dict[int, list[Point]] = {}
    for point in points:
        fallen.setdefault(frame.cell(point, columns, rows)[0], []).append(point)
    means = [_mean(fallen[column]) for column in sorted(fallen)]
    cells = [frame.cell(point, columns, rows) for point in means]
    drawn = set(cells)
    for (left, above), (right, below) in pairwise(cells):
        length = max(right - left, abs(below - above), 1)
        drawn |= {
            (
                left + round((right - left) * part / length),
                above + round((below - above) * part / length),
            )
            for part in range(length)
        }
    return drawn


def _mean(points: list[Point]) -> Point:
    return points[len(points) // 2][0], sum(loss for _, loss in points) / len(points)


def _characters(dots: set[Cell], plain: bool) -> dict[Cell, str]:
    if plain:
        return dict.fromkeys(dots, "*")
    masks: dict[Cell, int] = {}
    for column, row in dots:
        cell = column // _DOTS_WIDE, row // _DOTS_HIGH
        masks[cell] = masks.get(cell, 0) | _DOTS[row % _DOTS_HIGH][column % _DOTS_WIDE]
    return {cell: chr(_BRAILLE + mask) for cell, mask in masks.items()}
