"""Plugins that tests make on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Gt

from trimtab import Config, hookimpl
from trimtab.core.runfile import Plan, RunFileError, load
from trimtab.plugins.admission import KINDS
from trimtab.plugins.registry import OURS, Distribution, Plugins


class Options(Config):
    """Options of every made plugin."""

    strength: Annotated[float, Gt(0)] = 0.1
    """How strongly it pulls."""

    shape: Literal["round", "square", "none"] = "round"
    """Its shape."""

    label: str | None = None
    """Its label."""

    steps: tuple[int, ...] = ()
    """When it acts."""


def plugin_class(name: str, options: type[Config] = Options) -> type[Any]:
    """A class that any kind's hook may provide."""
    return type("Made", (), {"name": name, "options": options, "__doc__": "Made by a test."})


def module(**members: Any) -> ModuleType:
    """A plugin module."""
    made = ModuleType("made")
    vars(made).update(members)
    return made


def provider(*classes: type[Any], kind: str = "objective") -> ModuleType:
    """A plugin module that provides these classes of one kind."""

    @hookimpl
    def provide() -> list[type[Any]]:
        return list(classes)

    return module(**{KINDS[kind]: provide})


def plugins(builtin: tuple[str, ...] = ()) -> Plugins:
    """A registry of made plugins, one or two a kind, beside some of the built-in ones."""
    registry = Plugins(builtin, installed=False)
    names = {
        "objective": ("plain", "other"),
        "reward": ("length", "overlap"),
        "reference": ("adapter_off",),
        "engine": ("transformers",),
        "source": ("rows",),
        "judge": ("local",),
        "tracker": ("table",),
    }
    for kind, made in names.items():
        classes = provider(*map(plugin_class, made), kind=kind)
        registry.add(f"made_{kind}", Distribution(OURS), lambda classes=classes: classes)
    return registry


def reader(registry: Plugins) -> Callable[..., Plan]:
    """What loads a text as the ``run.yaml`` of this folder, with overrides."""

    def read(text: str, *overrides: str) -> Plan:
        Path("run.yaml").write_text(text)
        return load("run.yaml", overrides, registry)

    return read


def faults(read: Callable[..., Plan], text: str, *overrides: str) -> list[str]:
    """All that is wrong with a text."""
    with pytest.raises(RunFileError) as caught:
        read(text, *overrides)
    assert str(caught.value) == "\n".join(caught.value.errors)
    return caught.value.errors
