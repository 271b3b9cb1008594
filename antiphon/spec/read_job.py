"""From a job file to a Job: layers merged, every section checked, names and paths resolved.

All mistakes are reported at once. A section with mistakes is still checked against the others as
far as what is left of it allows; nothing is said twice for one cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from antiphon.errors import JobError, Mistake
from antiphon.spec.catalogue import catalogue, read_cluster
from antiphon.spec.check_job import Parts, check
from antiphon.spec.cluster import Cluster
from antiphon.spec.data import Data
from antiphon.spec.huggingface_config import read_model
from antiphon.spec.inline_model import InlineModel, inline_model
from antiphon.spec.job import FORMAT, ClusterChoice, Job, PlanPins, Train
from antiphon.spec.layers import Given, Layer, Layers, read_overrides, read_user_file
from antiphon.spec.local_machine import local_cluster
from antiphon.spec.model import Model
from antiphon.spec.toml_file import frozen, read_toml
from antiphon.spec.validation import Location, dotted, listed, mistakes_in, nearest, shown

BUILTIN_CORPORA = ("builtin:python",)
SECTIONS = ("model", "cluster", "train", "plan")
TOP_LEVEL_KEYS = ("name", "format")
REQUIRED = {
    "model": "`config = ...`, or with `layers`, `hidden` and `heads`",
    "train": "`sequence_length`, `global_batch` and `steps`",
}

Section = TypeVar("Section", bound=Data)
Value = TypeVar("Value")


def read_job(path: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Job:
    """The job of a TOML file.

    ``overrides`` are the arguments of ``--set``, such as ``"plan.tensor=2"``; ``seed`` is that of
    ``--seed``. They win over the file, which wins over the user's own file
    (``~/.config/antiphon/config.toml``), which wins over the defaults. A relative path starts from
    the folder of the file that names it, one in ``overrides`` from the working directory.
    Raises JobError with every mistake.
    """
    return _read(lambda: read_toml(path), overrides, seed, Path(path).stem)


def job_from_dict(
    data: Mapping[str, Any],
    overrides: Sequence[str] = (),
    seed: int | None = None,
    *,
    name: str = "job",
    folder: str | Path = ".",
) -> Job:
    """The job that ``data`` describes, in the sections of a job file; otherwise as ``read_job``.

    ``folder`` is what relative paths in ``data`` start from.
    """
    given = Given(frozen(dict(data)), folder=Path(folder))
    return _read(lambda: given, overrides, seed, name)


class _Reading:
    """The layers that the job is read from, and what was found wrong so far."""

    def __init__(self, layers: Layers, mistakes: list[Mistake]) -> None:
        self.layers = layers
        self.mistakes = mistakes

    def attempt(self, read: Callable[[], Value], asked: Location) -> Value | None:
        """What ``read`` returns; None, and its mistakes noted, where it raises JobError.

        A mistake that has no place of its own is in the file that ``asked`` names.
        """
        found: list[Mistake] = []
        value = _attempt(read, found)
        for mistake in found:
            if mistake.path is None:
                self.note(asked, f"{mistake.key}: {mistake.problem}", mistake.help)
            else:
                self.mistakes.append(mistake)
        return value

    def note(self, location: Location, problem: str, help: str) -> None:  # noqa: A002
        self.mistakes.append(self.layers.place(location).mistake(dotted(location), problem, help))

    def section(self, name: str, schema: type[Section]) -> Section | None:
        """A section as ``schema``, its mistakes noted; None where a value is wrong or missing."""
        data = self.layers.data.get(name, {})
        wrong: set[str | int] = set()
        unknown_only = True
        try:
            return schema.model_validate(data)
        except ValidationError as error:
            self.mistakes += mistakes_in(error, schema, self.layers.place, (name,))
            for detail in error.errors():
                wrong |= set(detail["loc"][:1])
                unknown_only &= detail["type"] == "extra_forbidden"
        if isinstance(data, dict):
            self.right[name] = {key: data[key] for key in data.keys() - wrong}
        return schema.model_validate(self.right[name]) if unknown_only else None

    def path(self, location: Location, written: str) -> Path:
        return (self.layers.folder(location) / Path(written).expanduser()).resolve()


def _read(
    source: Callable[[], Layer], overrides: Sequence[str], seed: int | None, name: str
) -> Job:
    mistakes: list[Mistake] = []
    user = _attempt(read_user_file, mistakes)
    main = _attempt(source, mistakes)
    given = _attempt(lambda: read_overrides(overrides, seed), mistakes)
    if main is None:
        raise JobError(*mistakes)
    reading = _Reading(Layers([*([user] if user else []), main, *(given or [])], main), mistakes)
    present = _top_level(reading)

    train = _train(reading) if "train" in present else None
    length = train.sequence_length if train else None
    model, config = _model(reading, length) if "model" in present else (None, None)
    choice = reading.section("cluster", ClusterChoice, lenient=False)
    cluster = _cluster(reading, choice) if choice else None
    plan = reading.section("plan", PlanPins, lenient=True) or PlanPins()
    parts = _parts(model, config, train, plan, choice, cluster)
    for mistake in check(parts):
        reading.note(tuple(mistake.key.split(".")), mistake.problem, mistake.help)

    if mistakes:
        raise JobError(*sorted(mistakes, key=lambda at: (at.path or "", at.line or 0)))
    assert model is not None
    assert train is not None
    assert choice is not None
    return Job(
        name=reading.layers.data.get("name", name),
        model=model,
        model_config_path=config,
        cluster_choice=choice,
        cluster=cluster,
        train=train,
        plan=plan,
    )


def _attempt(read: Callable[[], Value], mistakes: list[Mistake]) -> Value | None:
    try:
        return read()
    except JobError as error:
        mistakes.extend(error.mistakes)
        return None


def _top_level(reading: _Reading) -> set[str]:
    """The keys of the file that are known, after a look at the others and at what is missing."""
    data = reading.layers.data
    known = (*SECTIONS, *TOP_LEVEL_KEYS)
    misspelt = set()
    for key in data.keys() - set(known):
        near = nearest(key, known)
        misspelt.add(near)
        choices = f"a job has {listed((f'[{name}]' for name in SECTIONS), 'and')}"
        way_out = f"write `{near}`; {choices}" if near else choices
        reading.note((key,), f"`{key}` is not a section of a job", way_out)
    for section, example in REQUIRED.items():
        if section not in data and section not in misspelt:
            reading.note((section,), "is missing", f"add a section [{section}] with {example}")
    if not isinstance(data.get("name", ""), str):
        reading.note(
            ("name",), f"{shown(data['name'])} is not text in quotes", "write text in quotes"
        )
    if data.get("format", FORMAT) != FORMAT:
        problem = f"{shown(data['format'])} is not a format of job files that this antiphon reads"
        reading.note(("format",), problem, f"write {FORMAT}, or use a newer antiphon")
    return data.keys() & set(known)


def _train(reading: _Reading) -> Train | None:
    """The section, with the folder of the corpus made absolute."""
    train = reading.section("train", Train, lenient=True)
    if train is None or train.data in BUILTIN_CORPORA:
        return train
    location = ("train", "data")
    otherwise = f"or use {listed(map(shown, BUILTIN_CORPORA))}"
    if train.data.startswith("builtin:"):
        reading.note(location, f"`{train.data}` is not built in", f"give a folder, {otherwise}")
        return train
    folder = reading.path(location, train.data)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        way_out = f"give a folder of text or JSON lines, {otherwise}"
        reading.note(location, f"`{train.data}` {what}", way_out)
    return train.model_copy(update={"data": str(folder)})


def _model(reading: _Reading, sequence_length: int | None) -> tuple[Model | None, Path | None]:
    """The model, and the config.json that it was read from, if it was."""
    data = reading.layers.data["model"]
    location = ("model", "config")
    if isinstance(data, dict) and "config" in data:
        for key in data.keys() - {"config"}:
            problem = "says again what `model.config` says"
            reading.note(("model", key), problem, f"delete `{key}`, or delete `config`")
        if not isinstance(data["config"], str):
            reading.note(location, f"{shown(data['config'])} is not a path", "write text in quotes")
            return None, None
        path = reading.path(location, data["config"])
        return reading.attempt(lambda: read_model(path), location), path
    section = reading.section("model", InlineModel, lenient=False)
    if section is None:
        return None, None
    try:
        return inline_model(section, sequence_length), None
    except JobError as error:
        for mistake in error.mistakes:
            reading.note(("model", mistake.key), mistake.problem, mistake.help)
        return None, None


def _cluster(reading: _Reading, choice: ClusterChoice) -> Cluster | None:
    """The machines that are described somewhere; None for this one, or where there is a mistake."""
    location = ("cluster", "use")
    if choice.use == "local":
        return None
    if "/" not in choice.use and not choice.use.endswith(".toml"):
        place = reading.layers.place(location)
        return reading.attempt(lambda: catalogue(choice.use, choice.count or 1, place), location)
    if choice.count is not None:
        problem = f"{choice.count} copies are asked for, of a cluster that a file describes"
        reading.note(("cluster", "count"), problem, "delete the line, and count nodes in the file")
    path = reading.path(location, choice.use)
    return reading.attempt(lambda: read_cluster(path), location)


def _parts(
    model: Model | None,
    config: Path | None,
    train: Train | None,
    plan: PlanPins,
    choice: ClusterChoice | None,
    cluster: Cluster | None,
) -> Parts:
    """What the sections say together, for the checks between them."""
    count: int | None = None
    name, kinds = "the cluster", {}
    if cluster is not None:
        count, name = len(cluster.devices), cluster.name
        kinds = {device.name: device for node in cluster.nodes for device in node.devices}
    elif choice is not None and choice.use == "local":
        count = choice.count
        kinds = {device.name: device for device in local_cluster(1).devices}
    return Parts(
        model=model,
        model_name=config.name if config else "the model",
        train=train,
        plan=plan,
        cluster_name=name,
        devices=count,
        kinds=tuple(kinds.values()),
    )
