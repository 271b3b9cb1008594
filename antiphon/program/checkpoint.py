"""Checkpoints: whole or not there at all, whenever the run is stopped.

A checkpoint is a folder ``checkpoints/step-00000120`` of the run's store. It is written under
another name, made safe, and only then given its own.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Protocol

from antiphon.errors import RunError
from antiphon.program.stage import Stage
from antiphon.world.protocols import Device, Storage, Store

FOLDER = "checkpoints"
FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"
REPLACED = ".replaced"
NAME = re.compile(r"step-\d{8,}")
HELP = "resume from an older checkpoint, or start anew in another --run-dir"


class CheckpointWorld(Device, Storage, Protocol):
    """What checkpoints need of a world."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come. ``samples`` is the sampler's position."""

    step: int = 0
    samples: int = 0


async def save(world: CheckpointWorld, stage: Stage, position: Position, seed: int) -> str:
    """Write one checkpoint and return its name. Training may go on once the state is copied."""
    await world.compute(*stage.snapshot())
    return await write(world.store("run"), stage, position, seed)


async def write(store: Store, stage: Stage, position: Position, seed: int) -> str:
    """Write the snapshot that ``stage`` has taken, as the checkpoint of ``position``."""
    folder = f"step-{position.step:08d}"
    name = f"{FOLDER}/{folder}"
    unfinished, replaced = name + UNFINISHED, name + REPLACED
    await store.remove(unfinished)
    digests = {}
    for file, content in stage.files().items():
        digests[file] = await store.put(f"{unfinished}/{file}", content)
    manifest = {"format": FORMAT, **asdict(position), "seed": seed, "sha256": digests}
    text = json.dumps(manifest, indent=2)
    await store.put(f"{unfinished}/{MANIFEST}", memoryview(text.encode()))
    await store.sync(unfinished)
    await store.remove(replaced)
    if folder in await store.list(FOLDER):
        await store.rename(name, replaced)  # at once, as removing it would not be
    await store.rename(unfinished, name)
    await store.sync(FOLDER)
    await store.remove(replaced)
    return name


async def latest(store: Store) -> str | None:
    """Return the name of the newest whole checkpoint; None where there is none."""
    names = [name for name in await store.list(FOLDER) if NAME.fullmatch(name)]
    return f"{FOLDER}/{max(names, key=_step)}" if names else None


async def restore(world: CheckpointWorld, stage: Stage, name: str) -> Position:
    """Put the checkpoint ``name`` back into ``stage``. Raises RunError if it cannot be used."""
    store = world.store("run")
    position, digests = _read_manifest(name, bytes(await _get(store, f"{name}/{MANIFEST}")))
    files = {file: await _get(store, f"{name}/{file}") for file in digests}
    await world.compute(*stage.restore(files, digests))
    return position


def _read_manifest(name: str, content: bytes) -> tuple[Position, dict[str, str]]:
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise RunError(
                f"checkpoint {name} has format {manifest['format']}, this version reads {FORMAT}",
                "use the version of antiphon that wrote it",
            )
        position = Position(step=int(manifest["step"]), samples=int(manifest["samples"]))
        digests = dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{name}/{MANIFEST} is damaged", HELP) from None
    return position, digests


async def _get(store: Store, file: str) -> memoryview:
    try:
        return await store.get(file)
    except FileNotFoundError:
        raise RunError(f"{file} is missing", HELP) from None


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))
