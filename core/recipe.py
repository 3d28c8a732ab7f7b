"""The contract of a recipe: a method without a loss of its own, made of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from trimtab.core.config import Selected
from trimtab.core.errors import UserError
from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.batches import Batch

OF_THE_ROWS = ("train", "eval", "limit", "columns", "convert")
"""Options of ``data`` that belong to the rows that ``train`` names."""

C = TypeVar("C", bound=Config, default=Any)


class OptionError(UserError):
    """An option of a recipe does not fit what is around. It is told where the option stands."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option
        """Its dotted path among the options: ``select.by``."""


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

    def section(self, name: str) -> dict[str, Any]:
        """A copy of a section; empty where there is none."""
        return dict(self.sections.get(name) or {})

    @property
    def rewards(self) -> list[dict[str, Any]]:
        """A copy of the section ``reward``."""
        return [dict(reward) for reward in self.sections.get("reward") or ()]

    @property
    def counting(self) -> list[dict[str, Any]]:
        """Those of ``rewards`` that are not only watched."""
        return [reward for reward in self.rewards if reward.get("weight", 1.0)]

    @property
    def judging(self) -> list[dict[str, Any]]:
        """Those of ``counting``, for a part that makes a data set; ``UserError`` where one has a
        running mean, which no such part has."""
        for reward in self.counting:
            if reward.get("standardize"):
                raise UserError(
                    f"the reward {reward.get('label') or reward.get('name')!r} has standardize, "
                    "which takes off the running mean of a training, and here samples are judged "
                    "outside of one: leave standardize out"
                )
        return self.counting

    @property
    def base(self) -> dict[str, Any]:
        """The section ``model`` without a start."""
        kept = self.section("model").items()
        return {key: value for key, value in kept if key not in ("start", "start_as")}

    @property
    def seed(self) -> int:
        """``train.seed``."""
        return int(self.section("train").get("seed", 0))

    def refuse_source(self) -> None:
        """``UserError`` where a source is given, for recipes that have their own."""
        if self.sections.get("source") is not None:
            raise UserError("the source is the recipe's own: leave the section source out")

    def want_rewards(self, what: str) -> None:
        """``UserError`` unless a reward counts. ``what`` is for it, such as "pairs are made"."""
        if not self.counting:
            raise UserError(
                f"{what} by reward, and the run file names none that counts: give "
                "reward: [{name: ...}] (trimtab plugins lists them)"
            )

    def making(self, seed: int) -> dict[str, Any]:
        """The sections of a part that makes a data set, where they are not those around: without
        an objective and what belongs to one."""
        train = self.section("train")
        kept = {key: train[key] for key in ("rows", "micro_tokens") if key in train}
        without = dict.fromkeys(("objective", "reference", "streams", "watch"))
        return {**without, "train": {**kept, "seed": seed}}

    def data_of(self, made: Sequence[str], **changes: Any) -> dict[str, Any]:
        """The section ``data`` that reads what earlier parts made, and keeps the limits on length.

        What says how the file's own rows are read, or which of them are held out, is left out.
        """
        kept = {k: v for k, v in self.section("data").items() if k not in OF_THE_ROWS}
        return {**kept, "train": made[0] if len(made) == 1 else list(made), **changes}

    def learned_from(self, made: Sequence[str], **changes: Any) -> dict[str, Any]:
        """The section ``data`` of a policy that learns from what earlier parts made of the file's
        prompts: as ``data_of``, and evaluations answer the prompts that the file holds out."""
        data = self.section("data")
        asked = data.get("train")
        plain = not any(data.get(key) for key in ("eval", "columns", "convert"))
        own = {"eval_prompts": asked} if plain and isinstance(asked, str) else {}
        return {**own, **self.data_of(made, **changes)}

    def objective(
        self, chosen: Selected | None, *kinds: type[Batch], option: str = "optimizer"
    ) -> dict[str, Any]:
        """The section ``objective`` that a user's choice makes.

        None chooses the one that learns from the first of ``kinds``. ``OptionError`` where what
        was chosen learns from none of them.
        """
        if chosen is None:
            return {"name": self._default(kinds[0], option)}
        try:
            learns_from = self.learns_from(chosen.name)
        except UserError as error:
            raise OptionError(f"{option}.name", str(error)) from error
        if learns_from not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise OptionError(
                option,
                f"{chosen.name!r} learns from {learns_from.__name__}, and what this recipe gives "
                f"it are {wanted}",
            )
        return chosen.model_dump(mode="json")

    def _default(self, kind: type[Batch], option: str) -> str:
        try:
            return self.the_one(kind)
        except UserError as error:
            raise OptionError(option, str(error)) from error


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

        Raises ``UserError`` where the options do not fit what is around; an ``OptionError`` is
        told where the option stands.
        """
