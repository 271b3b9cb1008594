"""What every command does around its verb: where output goes, and what a failure looks like.

Standard output carries what was found, and with ``--json`` one object and nothing else; progress
and errors go to standard error. Exit status: 0, 1 for a failed run, 2 for a user's mistake, 70 for
a fault of antiphon's own, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any

import typer

from antiphon.errors import AntiphonError, JobError

INTERNAL, INTERRUPTED = 70, 130
WIDTH = 100  # of tables, where there is no terminal


class Session:
    """The output of one command."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console  # here, so that --help shows at once

        from antiphon.report.progress import Progress

        self.as_json = as_json
        self._stdout = sys.stdout
        errors = Console(stderr=True)
        self.progress = Progress(errors)
        found = errors if as_json else Console()
        self.out = found if found.is_terminal else Console(stderr=as_json, width=WIDTH)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print what a program reads, if it was asked for. Once."""
        if self.as_json:
            from antiphon.report.json_object import json_text

            print(json_text(value), file=self._stdout, flush=True)

    def fail(self, status: int, message: str, kind: str, **facts: Any) -> typer.Exit:
        """Say why there is no result; the exception to end the command with."""
        print(message, file=sys.stderr, flush=True)  # noqa: T201 - the other
        self.result({"error": {"kind": kind, "message": message, **facts}})
        return typer.Exit(status)

    def left(self) -> str:
        """What an interrupted command leaves behind."""
        run_dir, checkpoint = self.progress.run_dir, self.progress.checkpoint
        if run_dir is None:
            return "nothing was left running"
        if checkpoint is None:
            return f"no checkpoint had been written in {run_dir}"
        return f"the last checkpoint is {run_dir / checkpoint}; --resume goes on from it"


@contextmanager
def session(as_json: bool) -> Iterator[Session]:
    """Run a verb: with what it raises told to the user, and made an exit status."""
    current = Session(as_json)
    try:
        with ExitStack() as stack:
            if as_json:
                stack.enter_context(redirect_stdout(sys.stderr))
            stack.enter_context(current.progress)
            yield current
    except JobError as error:
        mistakes = [asdict(mistake) for mistake in error.mistakes]
        raise current.fail(error.exit_status, str(error), "job", mistakes=mistakes) from None
    except AntiphonError as error:
        raise current.fail(error.exit_status, str(error), "run") from None
    except KeyboardInterrupt:
        message = f"interrupted: {current.left()}"
        raise current.fail(INTERRUPTED, message, "interrupted") from None
    except (typer.Exit, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - the last door: told with its traceback
        traceback.print_exception(error)
        message = f"error: antiphon itself failed, with {type(error).__name__}: {error}"
        help_text = "  = help: please report it, with the lines above"
        raise current.fail(INTERNAL, f"{message}\n{help_text}", "internal") from None
