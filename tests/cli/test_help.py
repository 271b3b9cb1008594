"""Help is one screen for every command, and shows at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import antiphon
from antiphon.cli.main import app

COMMANDS = ("quickstart", "plan", "train", "profile")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_fits_a_terminal_of_80_by_24(command: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"], prog_name="antiphon", terminal_width=80)
    lines = shown.output.rstrip("\n").split("\n")
    assert shown.exit_code == 0
    assert len(lines) < 24  # and the prompt below it
    assert max(map(len, lines)) <= 80


def test_help_names_every_command_without_cutting_what_it_says() -> None:
    output = CliRunner().invoke(app, ["--help"], terminal_width=80).output
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert "..." not in output.partition("Commands:")[2]


@pytest.mark.parametrize("command", ["plan", "train", "profile"])
def test_every_command_on_a_job_takes_the_same_options(command: str) -> None:
    output = CliRunner().invoke(app, [command, "--help"], terminal_width=80).output
    assert all(option in output for option in ("JOB", "--set", "--seed", "--json"))


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"antiphon {antiphon.__version__}\n"


def test_a_command_starts_without_loading_what_it_does_not_need() -> None:
    program = (
        "import sys, antiphon.cli.main as main\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
