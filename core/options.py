"""The base of every options class. It imports no torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict

PositiveInt = Annotated[int, Gt(0)]
PositiveFloat = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Lt(1)]

SELECTS = "x-selects"
"""In the JSON Schema of an option that selects a plugin: the plugin's kind."""


@dataclass(frozen=True)
class OfKind:
    """Marks an option that selects a plugin: ``Annotated[Selected | None, OfKind("objective")]``.

    The options beside its name are then checked, described and completed as the plugin's own.
    """

    kind: str

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        """The schema of the option says which kind of plugin it selects."""
        return {**handler(core), SELECTS: self.kind}


class LocalPath:
    """Marks an option that may name a path here: ``Annotated[str, LocalPath()]``.

    A run keeps such a path absolute, so that it can be resumed from anywhere, and a stage is run
    again where what is there has changed.
    """

    def __init__(self, modules_of: str | None = None, awaited: bool = False) -> None:
        self.modules_of = modules_of
        """The path is a folder in which Python modules are looked for, and this option beside it,
        ``module:callable``, says which: that module alone is what counts of the folder."""
        self.awaited = awaited
        """It is a path also where nothing is yet. Another one may name something elsewhere."""


class Incidental:
    """Marks an option that no result depends on: ``Annotated[int, Incidental()]``.

    How often a request is sent again, say. A stage is not run again where only such an option is
    another one, and one that goes on takes it as it is now.
    """


class Config(BaseModel):
    """Options of one plugin or section: frozen, typed, and no unknown keys.

    A docstring under a field is its description in ``trimtab describe`` and in the JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
