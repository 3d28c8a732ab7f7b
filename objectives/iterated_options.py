"""Options of iterated training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt
from pydantic import model_validator

from trimtab import Config
from trimtab.core.config import Selected
from trimtab.core.options import LocalPath, OfKind
from trimtab.objectives.feedback_options import Fitting, Labelling

ROUND = "{round}"
"""In the name of a file of labels: the number of the round."""


class Selecting(Selected):
    """The source that selects, with its options; ``name`` may be left out."""

    name: str = "selection"
    """Which one."""


class IteratedConfig(Config):
    """Options of iterated training."""

    rounds: Annotated[int, Ge(1)] = 2
    """How often to sample, label, refit and continue."""

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """The objective that the policy learns with, and its options: any one that learns from pairs
    or from labelled completions learns from the labels; one that learns from rollouts has the
    reward model for its reward. null is the built-in one for pairs."""

    prompts: Annotated[int, Gt(0)] | None = None
    """How many prompts are answered in a round, each round's the next of the data; null is all."""

    n: Annotated[int, Ge(2)] = 2
    """Completions of each prompt, of which pairs are labelled."""

    select: Annotated[Selecting | None, OfKind("source")] = None
    """Which pairs are worth a label: options of the source ``selection``, such as
    ``{by: disagreement, budget: 256}``, where budget is the pairs of a round. The first round has
    no ensemble yet, and takes them at random. null labels all."""

    labels: Annotated[Labelling, OfKind("source")] = Labelling()
    """Who labels, and how: options of the source ``labels``.

    ``by: reward`` is the file's ``reward`` (gold), ``by: judge`` its ``judge``. Of ``by: file``,
    ``{round}`` in the path is the round's number.
    """

    reward_model: Fitting = Fitting()
    """The reward model, which is fitted where the optimizer learns from rollouts, or pairs are
    selected by disagreement."""

    begin: Literal["latest", "first"] = "latest"
    """Where each round's policy begins: with the last round's, or where the first one's did."""

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out rows for the reward model, and for an optimizer that learns from the labels, as
    ``data.eval``. null holds out ``data.holdout`` of them."""

    @model_validator(mode="after")
    def _a_file_a_round(self) -> Self:
        file = (self.labels.model_extra or {}).get("file")
        if self.rounds > 1 and isinstance(file, str) and ROUND not in file:
            raise ValueError(
                f"labels.file: each of the {self.rounds} rounds has labels of its own: write "
                f"{ROUND} where the round's number stands in the name, as in labels-{ROUND}.jsonl"
            )
        return self
