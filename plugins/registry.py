"""Which plugins there are, and what each provides. The caller owns it; nothing happens on import.

Built-ins, installed distributions (entry points of the group ``trimtab``) and single Python files
come through the same hooks. A plugin that is wrong hides no other: it is an error where it is
selected and a warning elsewhere. By convention the entry point ``acme`` provides ``acme.*``, so
that a name can be traced to a plugin that failed to import.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pluggy

from trimtab.core import hookspecs
from trimtab.core.errors import PluginError, suggestion
from trimtab.plugins.admission import KINDS, admit, said

OURS = "trimtab"
GROUP = "trimtab"
BUILTIN = (
    "trimtab.objectives.sft",
    "trimtab.objectives.dpo",
    "trimtab.objectives.kto",
    "trimtab.objectives.reward_model",
    "trimtab.objectives.grpo",
    "trimtab.objectives.ppo",
    "trimtab.objectives.rloo",
    "trimtab.objectives.reinforce_pp",
    "trimtab.objectives.online_dpo",
    "trimtab.objectives.best_of_n",
    "trimtab.objectives.iterated",
    "trimtab.objectives.rlaif",
    "trimtab.objectives.constitutional",
    "trimtab.plugins.references.adapter_off",
    "trimtab.plugins.references.model",
    "trimtab.plugins.references.moving",
    "trimtab.plugins.references.none",
    "trimtab.plugins.references.precomputed",
    "trimtab.plugins.sources.dataset",
    "trimtab.plugins.sources.stream",
    "trimtab.plugins.sources.rollouts",
    "trimtab.plugins.sources.rollout_pairs",
    "trimtab.plugins.makers.candidates",
    "trimtab.plugins.makers.best",
    "trimtab.plugins.makers.selection",
    "trimtab.plugins.makers.labels",
    "trimtab.plugins.makers.deliberative",
    "trimtab.plugins.makers.critique_revise",
    "trimtab.plugins.judges.local",
    "trimtab.plugins.judges.openai",
    "trimtab.plugins.engines.transformers",
    "trimtab.plugins.rewards.classifier",
    "trimtab.plugins.rewards.function",
    "trimtab.plugins.rewards.judge",
    "trimtab.plugins.rewards.length",
    "trimtab.plugins.rewards.missing_eos",
    "trimtab.plugins.rewards.reward_model",
    "trimtab.plugins.rewards.verifier",
    "trimtab.plugins.local",
)


class BrokenPluginWarning(UserWarning):
    """An installed plugin cannot be used. Runs that do not select it are not affected."""


@dataclass(frozen=True)
class Distribution:
    """What a plugin was installed with, or the file that it is."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip()


@dataclass(frozen=True)
class Provided:
    """A class that a run file can select, and whose it is."""

    cls: type[Any]
    plugin: str
    distribution: Distribution


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, and why."""

    plugin: str
    distribution: Distribution
    error: str

    def __str__(self) -> str:
        return f"the plugin {self.plugin!r} of {self.distribution} is broken: {self.error}"


@dataclass(frozen=True)
class Entry:
    """A line of ``trimtab plugins``."""

    name: str
    """As run files have it; of a plugin that could not be loaded, its entry point."""

    kind: str | None
    """None of a plugin that could not be loaded: what it would provide is unknown."""

    distribution: str
    version: str
    state: str
    """``ok`` or ``broken``."""

    error: str | None = None


class Plugins:
    """The built-in plugins, then those of installed distributions, then files added later."""

    def __init__(self, builtin: Iterable[str] = BUILTIN, *, installed: bool = True) -> None:
        self.manager = pluggy.PluginManager("trimtab")
        self.manager.add_hookspecs(hookspecs)
        self.broken: list[Broken] = []
        self._provided: dict[tuple[str, str], list[Provided]] = defaultdict(list)
        self._files: set[Path] = set()
        ours = Distribution(OURS, version(OURS))
        for module in builtin:
            self.add(module, ours, partial(importlib.import_module, module))
        if installed:
            for plugin, distribution, load in _installed():
                self.add(plugin, distribution, load)

    @property
    def hook(self) -> pluggy.HookRelay:
        """Calls a hook of every plugin: ``hook.step_ended(run=..., step=..., metrics=...)``."""
        return self.manager.hook

    @contextmanager
    def observing(self, observers: Iterable[object]) -> Iterator[None]:
        """Call the hooks of these objects too, while the block runs."""
        added = [observer for observer in observers if self.manager.register(observer)]
        try:
            yield
        finally:
            for observer in added:
                self.manager.unregister(observer)

    def add(self, plugin: str, distribution: Distribution, load: Callable[[], object]) -> None:
        """Load and register one plugin, or warn that it is broken."""
        broken = self._add(plugin, distribution, load)
        if broken:
            warnings.warn(str(broken), BrokenPluginWarning, stacklevel=3)

    def add_file(self, path: Path) -> None:
        """Load and register a Python file, once; ``PluginError`` when it is broken."""
        path = path.resolve()
        if path in self._files:
            return
        broken = self._add(path.stem, Distribution(str(path)), partial(_load_file, path))
        if broken:
            self.broken.remove(broken)
            raise PluginError(f"the plugin file {path} is broken: {broken.error}")
        self._files.add(path)

    def _add(
        self, plugin: str, distribution: Distribution, load: Callable[[], object]
    ) -> Broken | None:
        try:
            module = load()
            prefix = None if distribution.name == OURS else plugin.replace("-", "_")
            found = admit(self.manager, f"{distribution.name}:{plugin}", module, prefix)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises
            broken = Broken(plugin, distribution, said(error))
            self.broken.append(broken)
            return broken
        for kind, cls in found:
            self._provided[kind, cls.name].append(Provided(cls, plugin, distribution))
        return None

    def names(self, kind: str) -> list[str]:
        """Every name of this kind that can be selected."""
        return sorted(
            name
            for (known, name), claims in self._provided.items()
            if known == kind and len(claims) == 1
        )

    def find(self, kind: str, name: str) -> type[Any]:
        """The class that a run file selects by this name."""
        return self.provided(kind, name).cls

    def provided(self, kind: str, name: str) -> Provided:
        """The class and whose it is; an error when it is nobody's, or two plugins'."""
        claims = self._provided.get((kind, name), [])
        if not claims:
            raise PluginError(self._unknown(kind, name))
        if len(claims) > 1:
            raise PluginError(_contested(kind, name, claims))
        return claims[0]

    def make(self, kind: str, name: str, options: Mapping[str, Any]) -> Any:
        """An instance by name, with options as a checked run file has them."""
        cls = self.find(kind, name)
        return cls(cls.options.model_validate_json(json.dumps(options)))

    def entries(self) -> list[Entry]:
        """Everything that is installed, by kind and name, then what is broken."""
        order = list(KINDS)
        found = []
        for kind, name in sorted(self._provided, key=lambda key: (order.index(key[0]), key[1])):
            claims = self._provided[kind, name]
            error = _contested(kind, name, claims) if len(claims) > 1 else None
            for claim in claims:
                state = "broken" if error else "ok"
                whose = claim.distribution
                found.append(Entry(name, kind, whose.name, whose.version, state, error))
        for broken in self.broken:
            whose = broken.distribution
            found.append(
                Entry(broken.plugin, None, whose.name, whose.version, "broken", broken.error)
            )
        return found

    def _unknown(self, kind: str, name: str) -> str:
        """What to say about a name that no working plugin provides."""
        owners = [broken for broken in self.broken if name.startswith(f"{broken.plugin}.")]
        others = [broken for broken in self.broken if broken not in owners]
        kinds = [other for other in KINDS if other != kind and self._provided.get((other, name))]
        parts = [f"no {kind} {name!r}"]
        if owners:
            parts[0] += ": " + "; ".join(map(str, owners))
        elif kinds:
            parts[0] += f": that name is of kind {kinds[0]}"
        else:
            parts[0] += f".{suggestion(name, self.names(kind))}".rstrip(".")
        if not owners:
            parts.append(f"Installed: {', '.join(self.names(kind)) or 'none'}")
        parts += [f"Not loaded: {broken}" for broken in others]
        return _sentences(parts)


def _sentences(parts: Iterable[str]) -> str:
    return " ".join(part if part.endswith(("?", ".")) else f"{part}." for part in parts)


def _contested(kind: str, name: str, claims: Iterable[Provided]) -> str:
    owners = " and ".join(str(claim.distribution) for claim in claims)
    return f"two plugins provide the {kind} {name!r}: {owners}. Uninstall one."


def _installed() -> Iterator[tuple[str, Distribution, Callable[[], object]]]:
    """(plugin, distribution, load) of every entry point in the group ``trimtab``."""
    for entry_point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        dist = entry_point.dist
        whose = Distribution(dist.name, dist.version) if dist else Distribution(entry_point.value)
        yield entry_point.name, whose, entry_point.load


def _load_file(path: Path) -> object:
    """The module that a Python file holds. It can be imported by no name of its own."""
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"trimtab_file_{digest}"
    if not path.is_file():
        raise PluginError("there is no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError("it is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pydantic and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
