"""The contract of a recipe: a method without a loss of its own, made of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.batches import Batch

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Around:
    """What a recipe is told of the run, or the stage, that names it."""

    sections: Mapping[str, Any]
    """Its sections as they were written, without ``objective``: what every stage starts from."""

    learns_from: Callable[[str], type[Batch]]
    """The kind of rows that an objective learns from, by its name. ``UserError`` where it is none,
    or a recipe."""

    the_one: Callable[[type[Batch]], str]
    """The name of the only built-in objective that learns from such rows; ``UserError`` where
    there are several, or none."""


@dataclass(frozen=True)
class Part:
    """One stage of a recipe."""

    name: str
    """Within the recipe. The last one is known by the name of the stage that the recipe is."""

    sections: Mapping[str, Any]
    """Each in place of the section of that name; None leaves the section out.

    ``stages.NAME`` is an earlier part's result, by its name within the recipe.
    """


class Recipe(ABC, Generic[C]):
    """Stands where an objective does: ``objective: {name: ...}``.

    Every part is a source x an objective, any registered one, or a source that makes a data set.
    It names no objective: that is the user's choice, in an option such as ``optimizer``.
    """

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    def __init__(self, config: C) -> None:
        self.config = config

    @abstractmethod
    def expand(self, around: Around) -> Sequence[Part]:
        """The parts, in their order; at least one. Pure: it reads no file and asks no clock.

        Raises ``UserError`` where the options do not fit what is around.
        """
