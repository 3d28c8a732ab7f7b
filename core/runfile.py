"""Run files: YAML text -> a plan of checked runs, or every error at once.

Each error says where it is: ``run.yaml:4: train.stpes: unknown key. Did you mean 'steps'?``
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trimtab.core.config import NOTHING_TO_DO, RunFile, SelectedReward
from trimtab.core.errors import UserError, suggestion
from trimtab.core.expansion import expanded, recipes_of
from trimtab.core.explain import check
from trimtab.core.overrides import override
from trimtab.core.registry import Registry
from trimtab.core.stages import check_handovers, split
from trimtab.core.yamlfile import Fault, Node, read, text_of, write

KINDS = {
    "objective": "objective",
    "reward": "reward",
    "reference": "reference",
    "source": "source",
    "judge": "judge",
    "trackers": "tracker",
}
"""The sections that name a plugin, or hold a list of such sections, and the plugin's kind."""


RESERVED = {"reward": tuple(SelectedReward.model_fields)}
"""Keys of a plugin's section that are not its options, where ``name`` is not the only one."""

ELSEWHERE = tuple(
    f"{section}.{key}"
    for section, field in RunFile.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    for key in field.annotation.model_fields
)
"""``train.learning_rate`` and so on: what an unknown key at the top may have been meant for."""


class RunFileError(UserError):
    """All that is wrong with a run file, one line each."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        self.errors = [str(fault) for fault in self.faults]
        """``FILE:LINE: key: message`` each."""
        super().__init__("\n".join(self.errors))


@dataclass(frozen=True)
class Stage:
    """One run of a run file."""

    name: str | None
    """None where the file has no ``stages``."""

    run: RunFile


@dataclass(frozen=True)
class Plan:
    """A checked run file: its runs, in their order."""

    path: Path
    text: str
    stages: tuple[Stage, ...]
    recipes: tuple[str, ...] = ()
    """The names of those that stood for some of the stages, within the file."""


def load(path: str | Path, overrides: Iterable[str], registry: Registry) -> Plan:
    """The plan that a run file and ``a.b=c`` overrides make, or ``RunFileError`` with every fault.

    The runs are resolved: every option of every plugin has its value, and the paths in
    ``plugins`` are absolute.
    """
    path = Path(path)
    text = text_of(path, "the run file")
    if isinstance(text, Fault):
        raise RunFileError([text])
    root, faults = read(text, str(path))
    if isinstance(root.value, dict) or (root.value is None and not faults):
        for each in overrides:
            root = override(root, each, faults)
        root = _load_plugins(root, path.parent, registry, faults)
        asked = split(root, faults)
        recipes = recipes_of(asked, registry)
        nodes = expanded(asked, registry, faults)
        check_handovers(nodes, faults)
        runs = [(name, _run(node, registry, faults)) for name, node in nodes]
    elif not faults:
        faults.append(Fault(root.origin, "yaml", "a run file holds sections such as 'objective:'"))
    if faults:
        raise RunFileError(_in_order(faults))
    return Plan(path, text, tuple(Stage(name, run) for name, run in runs if run), recipes)


def dump(run: RunFile) -> str:
    """The YAML of a resolved run; ``load`` gives an equal one.

    A ``stages.NAME`` in it must have been replaced by what that stage made.
    """
    return write(run.model_dump(mode="json"))


def dump_plan(plan: Plan) -> str:
    """The YAML of all the runs of a plan; ``load`` gives equal ones."""
    if plan.stages[0].name is None:
        return dump(plan.stages[0].run)
    whole = plan.stages[0].run.model_dump(mode="json", include={"plugins", "run"})
    stages = [
        {"name": stage.name, **stage.run.model_dump(mode="json", exclude={"plugins", "run"})}
        for stage in plan.stages
    ]
    return write({"stages": stages, **whole})


def _load_plugins(root: Node, folder: Path, registry: Registry, faults: list[Fault]) -> Node:
    """Load the local files, and write their absolute paths in their place."""
    section = root.child("plugins")
    if section is None or not isinstance(section.value, list):
        return root
    files = []
    for item in section.value:
        if isinstance(item.value, str):
            path = (folder / item.value).resolve()
            try:
                registry.add_file(path)
            except UserError as error:
                faults.append(Fault(item.origin, item.key, str(error)))
            item = item.having(str(path))
        files.append(item)
    return root.having({**root.value, "plugins": section.having(files)})


def _run(node: Node, registry: Registry, faults: list[Fault]) -> RunFile | None:
    """The run that these sections make, with its plugins' options checked and complete."""
    plain = node.plain() or {}
    run, found = check(RunFile, node, plain, also=("stages", *ELSEWHERE))
    faults.extend(found)
    if run is None and plain.get("objective") is None and plain.get("source") is None:
        faults.append(Fault(node.origin, node.under("objective"), NOTHING_TO_DO))
    if run is not None:
        plain = run.model_dump(mode="json", by_alias=True)
    for section, kind in KINDS.items():
        here = node.child(section) or Node(None, node.origin, section)
        if isinstance(plain.get(section), list):
            plain[section] = [
                _options(kind, item, here.child(index) or here, registry, faults)
                for index, item in enumerate(plain[section])
            ]
        elif plain.get(section) is not None:
            plain[section] = _options(kind, plain[section], here, registry, faults)
    if run is not None:
        for path, kind in nested(run):
            _check_nested(plain, node, path, kind, registry, faults)
        if not faults:
            faults.extend(_misfit(run, node, registry))
        if not faults:
            faults.extend(_running_means(run, node, registry))
    return None if run is None or faults else check(RunFile, node, plain)[0]


def _misfit(run: RunFile, node: Node, registry: Registry) -> Iterator[Fault]:
    """A source that does not give what the objective learns from, or makes no data set."""
    if run.source is None:
        return
    source = registry.find("source", run.source.name)
    if not hasattr(source, "serves"):
        return
    said = None
    if run.objective is None:
        if not hasattr(source, "make"):
            said = "it gives rows to train on, and makes no data set: name an objective"
    elif hasattr(source, "make"):
        said = f"it makes a data set, which {run.objective.name!r} cannot train on: write "
        said += "objective: null here, and train in a stage with data: {train: stages.NAME}"
    else:
        batch = getattr(registry.find("objective", run.objective.name), "data", None)
        if batch is not None and not source.serves(batch):
            said = f"it cannot make the {batch.__name__} that {run.objective.name!r} learns from"
    if said is not None:
        here = node.child("source") or node
        here = here.child("name") or here
        yield Fault(here.origin, here.key, f"{run.source.name!r}: {said}")


def _running_means(run: RunFile, node: Node, registry: Registry) -> Iterator[Fault]:
    """Rewards that need what a training has and a stage that makes a data set has not."""
    if run.objective is not None or run.source is None:
        return
    running = [number for number, reward in enumerate(run.reward) if reward.standardize]
    if running and registry.make("source", run.source.name, run.source.options).scores:
        for number in running:
            here = node.child("reward") or node
            here = here.child(number) or here
            here = here.child("standardize") or here
            said = "this takes off the running mean of a training, and a stage that makes a data "
            yield Fault(here.origin, here.key, said + "set has none: set it to false there")


def nested(run: RunFile) -> Iterator[tuple[tuple[str, ...], str]]:
    """Where a plugin is named within a section, and its kind."""
    yield ("rollout", "engine"), "engine"
    for name, stream in run.streams.items():
        if stream.source is not None:
            yield ("streams", name, "source"), "source"


def _check_nested(
    plain: Any,
    node: Node,
    path: Sequence[str],
    kind: str,
    registry: Registry,
    faults: list[Fault],
) -> None:
    """Put a nested plugin's section in its place in ``plain``, with all its options."""
    *outer, last = path
    for key in outer:
        plain, node = plain[key], node.child(key) or Node(None, node.origin, node.under(key))
    here = node.child(last) or Node(None, node.origin, node.under(last))
    plain[last] = _options(kind, plain[last], here, registry, faults)


def _options(
    kind: str, section: Any, node: Node, registry: Registry, faults: list[Fault]
) -> Mapping[str, Any]:
    """A plugin's section with all its options, each checked by the plugin's own class."""
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        faults.extend(_near_name(node))
        return {}  # a fault already
    reserved = RESERVED.get(kind, ("name",))
    ours = {key: section[key] for key in reserved if key in section}
    try:
        cls = registry.find(kind, section["name"])
    except UserError as error:
        name = node.child("name") or node
        faults.append(Fault(name.origin, name.key, str(error)))
        return {}
    given = {key: value for key, value in section.items() if key not in ours}
    options, found = check(cls.options, node, given, also=reserved)
    faults.extend(found)
    return {**ours, **(options.model_dump(mode="json", by_alias=True) if options else {})}


def _near_name(section: Node) -> Iterator[Fault]:
    """Where a plugin's section has no name: the keys that may be meant for it."""
    for key, node in (section.value if isinstance(section.value, dict) else {}).items():
        if key != "name" and (near := suggestion(key, ["name"])):
            yield Fault(node.origin, node.key, f"unknown key.{near}")


def _in_order(faults: Iterable[Fault]) -> list[Fault]:
    """By line, overrides first. A value that is wrong in several ways or stages is told once."""
    first: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        first.setdefault((str(fault.origin), fault.key), fault)
    return sorted(first.values(), key=lambda fault: fault.origin.line or 0)
