"""What antiphon raises: one tree, with a documented root, shown to users without a traceback."""

from __future__ import annotations

from dataclasses import dataclass


class AntiphonError(Exception):
    """Root of every error that antiphon raises on purpose.

    ``exit_status`` is what the command line ends with: 2 for a user's mistake, 1 for a failed run.
    """

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend in what a user wrote. ``line`` counts from 1."""

    key: str
    problem: str  # the value and the rule it breaks: lower case, no full stop
    help: str  # what to write instead, with the values that are allowed
    path: str | None = None  # of the file; None where there is none, as in a call from Python
    line: int | None = None  # None where no line can be named, as for a key that is missing
    text: str = ""  # the line as the user wrote it

    def __str__(self) -> str:
        head = f"error: `{self.key}`: {self.problem}"
        if self.path is None:
            return f"{head}\n  = help: {self.help}"
        if self.line is None:
            return f"{head}\n --> {self.path}\n  = help: {self.help}"
        margin = " " * len(str(self.line))
        where = f"{margin}--> {self.path}:{self.line}\n{self.line} | {self.text}"
        return f"{head}\n{where}\n{margin} = help: {self.help}"


class JobError(AntiphonError):
    """Every Mistake of what a user wrote, found at once."""

    exit_status = 2

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(*mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.mistakes))


class RunError(AntiphonError):
    """A run that was rightly described and failed all the same, with what to do next."""

    def __init__(self, problem: str, help: str = "") -> None:  # noqa: A002 - the word users see
        super().__init__(problem, help)
        self.problem = problem
        self.help = help

    def __str__(self) -> str:
        return f"error: {self.problem}" + (f"\n  = help: {self.help}" if self.help else "")
