"""What a plugin module must be to be admitted, and what to say where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pluggy

from trimtab.core.errors import PluginError, suggestion
from trimtab.core.options import Config

API = 1
"""The version of the hooks and contracts. A plugin may state its own as ``trimtab_api = 1``."""

KINDS = {
    "objective": "provide_objectives",
    "reward": "provide_rewards",
    "reference": "provide_references",
    "source": "provide_sources",
    "judge": "provide_judges",
    "engine": "provide_engines",
    "tracker": "provide_trackers",
}
"""Every kind of plugin, and the hook that provides it."""

NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


def admit(
    manager: pluggy.PluginManager, plugin: str, module: object, prefix: str | None
) -> list[tuple[str, Any]]:
    """(kind, class) of all that the module provides; it stays registered only when all is right.

    ``prefix`` is to be suggested for names without a dot; None allows such names.
    """
    wants = getattr(module, "trimtab_api", API)
    if wants != API:
        raise PluginError(
            f"it was written for plugin API {wants}, and this trimtab has API {API}; "
            "install versions of the two that agree"
        )
    if manager.is_registered(module):
        raise PluginError(
            f"its module is registered already, as {manager.get_name(module)!r}; "
            "keep one entry point"
        )
    _check_decorated(manager, module)
    manager.register(module, plugin)
    try:
        _check_hooks(manager, module)
        return list(_classes(manager, module, prefix))
    except BaseException:
        manager.unregister(module)
        raise


def said(error: BaseException) -> str:
    """An error in one line; of ours, only its words."""
    words = " ".join(str(error).split())
    return words if isinstance(error, PluginError) else f"{type(error).__name__}: {words}"


def _check_decorated(manager: pluggy.PluginManager, module: object) -> None:
    for hook in KINDS.values():
        function = getattr(module, hook, None)
        if function is not None and not hasattr(function, f"{manager.project_name}_impl"):
            raise PluginError(f"its {hook} is not decorated; write @hookimpl above it")


def _check_hooks(manager: pluggy.PluginManager, module: object) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = [name for name in vars(manager.hook) if getattr(manager.hook, name).has_spec()]
        callers = manager.get_hookcallers(module) or []
        unknown = next(caller.name for caller in callers if not caller.has_spec())
        raise PluginError(
            f"it implements {unknown!r}, which is no hook.{suggestion(unknown, hooks)} "
            f"Hooks: {', '.join(hooks)}."
        ) from error
    if not manager.get_hookcallers(module):
        raise PluginError(f"it implements no hook, such as {KINDS['objective']}")


def _classes(
    manager: pluggy.PluginManager, module: object, prefix: str | None
) -> Iterator[tuple[str, Any]]:
    others = [other for other in manager.get_plugins() if other is not module]
    for kind, hook in KINDS.items():
        for classes in manager.subset_hook_caller(hook, others)():
            if isinstance(classes, (type, str)):
                raise PluginError(f"its {hook} returned {classes!r}; return a list of classes")
            for cls in classes:
                _check_class(cls, hook, prefix)
                yield kind, cls


def _check_class(cls: Any, hook: str, prefix: str | None) -> None:
    if not isinstance(cls, type):
        raise PluginError(f"its {hook} returned {cls!r}, which is no class")
    name = getattr(cls, "name", None)
    if not isinstance(name, str):
        raise PluginError(f"{cls.__name__} has no name, such as 'acme.simple'")
    if not NAME.fullmatch(name):
        raise PluginError(
            f"the name {name!r} of {cls.__name__} does not fit; "
            "a name is lower-case letters, digits and _, once dotted: 'acme.simple'"
        )
    if prefix is not None and "." not in name:
        raise PluginError(
            f"the name {name!r} is bare, and bare names are ours; "
            f"use a dotted one such as '{prefix}.{name}'"
        )
    options = getattr(cls, "options", None)
    if not (isinstance(options, type) and issubclass(options, Config)):
        raise PluginError(
            f"{cls.__name__} has no options class; derive one from trimtab.Config and name it "
            "in the base's brackets or as options = MyConfig"
        )
