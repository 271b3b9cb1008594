"""Checkpoints: whole or not there at all, whenever the run is stopped.

A checkpoint is a folder ``checkpoints/step-00000120`` of the run's store. It is written under
another name, made safe, and only then given its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Protocol

from antiphon.errors import RunError
from antiphon.program.stage import Stage
from antiphon.world.protocols import Device, Storage, Store

FOLDER = "checkpoints"
FORMAT = 1
MANIFEST = "manifest.json"
UNFINISHED = ".unfinished"


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
    name = f"{FOLDER}/step-{position.step:08d}"
    unfinished = name + UNFINISHED
    await store.remove(unfinished)
    digests = {}
    for file, content in stage.files().items():
        digests[file] = await store.put(f"{unfinished}/{file}", content)
    manifest = {"format": FORMAT, **asdict(position), "seed": seed, "sha256": digests}
    text = json.dumps(manifest, indent=2)
    await store.put(f"{unfinished}/{MANIFEST}", memoryview(text.encode()))
    await store.sync(unfinished)
    await store.remove(name)
    await store.rename(unfinished, name)
    await store.sync(FOLDER)
    return name


async def latest(store: Store) -> str | None:
    """Return the name of the newest whole checkpoint; None where there is none."""
    names = [name for name in await store.list(FOLDER) if not name.endswith(UNFINISHED)]
    return f"{FOLDER}/{max(names)}" if names else None


async def restore(world: CheckpointWorld, stage: Stage, name: str) -> Position:
    """Put the checkpoint ``name`` back into ``stage``. Raises RunError if it cannot be used."""
    store = world.store("run")
    manifest = json.loads(bytes(await store.get(f"{name}/{MANIFEST}")))
    if manifest["format"] != FORMAT:
        raise RunError(
            f"checkpoint {name} has format {manifest['format']}, this version reads {FORMAT}",
            "use the version of antiphon that wrote it",
        )
    files = {file: await store.get(f"{name}/{file}") for file in manifest["sha256"]}
    await world.compute(*stage.restore(files, manifest["sha256"]))
    return Position(step=manifest["step"], samples=manifest["samples"])
