"""The parts of antiphon that need more than the core install."""

from __future__ import annotations

from importlib.util import find_spec

from antiphon.errors import RunError

RUN_MODULES = ("torch", "safetensors", "tokenizers")


def require_run_extra(verb: str) -> None:
    """Raise RunError unless what ``antiphon[run]`` installs is here."""
    missing = [module for module in RUN_MODULES if find_spec(module) is None]
    if missing:
        raise RunError(
            f"`antiphon {verb}` needs {', '.join(missing)}, not installed here",
            'install them with `pip install "antiphon[run]"`; plan works without',
        )
