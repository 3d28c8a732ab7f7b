"""Options of Constitutional AI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trimtab import Config
from trimtab.core.config import Selected
from trimtab.core.options import LocalPath, OfKind
from trimtab.core.training import TrainConfig
from trimtab.objectives.feedback_options import Fitting, Labelling


class Revising(Selected):
    """The source that revises, with its options; ``name`` may be left out."""

    name: str = "critique_revise"
    """Which one."""


class FineTuning(Config):
    """How the policy learns to answer as the revisions do."""

    objective: Annotated[Selected | None, OfKind("objective")] = None
    """Any objective that learns from demonstrations; null is the built-in one."""

    train: TrainConfig | None = None
    """What is given here, over the file's ``train``; one epoch unless it says how long."""

    model: dict[str, Any] = Field(default_factory=dict)
    """What is given here, over the file's ``model``."""

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out demonstrations; null holds out ``data.holdout`` of the revisions."""


class ConstitutionalConfig(Config):
    """Options of Constitutional AI."""

    constitution: Annotated[str | None, LocalPath()] = None
    """A YAML file of principles; null is the one that comes with trimtab."""

    rounds: Annotated[int, Ge(1)] = 1
    """How often an answer is criticized and revised, each time for another principle."""

    prompts: Annotated[int, Gt(0)] | None = None
    """How many prompts are answered and revised, and how many of the next ones are then answered
    to be judged; null is all, both times."""

    revise: Annotated[Revising, OfKind("source")] = Revising()
    """More options of the source ``critique_revise``, such as who criticizes."""

    helpful: Annotated[str | None, LocalPath()] = None
    """Demonstrations of being helpful, which are mixed into the fine-tune: all rows of both."""

    fine_tune: FineTuning = FineTuning()
    """How the policy learns from the revisions."""

    pairs: Literal["judged", "revisions", "none"] = "judged"
    """What comes after the revisions.

    judged: fine-tune on them, then answer anew; a judge labels pairs by the constitution.
    revisions: no fine-tune; each revision is preferred to its draft, and these are the pairs.
    none: fine-tune on them, and no more.
    """

    n: Annotated[int, Ge(2)] = 2
    """Completions of each prompt that are judged."""

    labels: Annotated[Labelling, OfKind("source")] = Labelling()
    """More options of the source ``labels``. Unless they say otherwise labels are by the judge and
    the constitution, and soft, but for an optimizer that learns from labelled completions; soft
    ones are kept between 0.4 and 0.6 where the judge reasons first."""

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """The objective that the policy learns with from the pairs, and its options: any one that
    learns from pairs or from labelled completions; one that learns from rollouts has a reward
    model of the pairs for its reward. null is the built-in one for pairs."""

    reward_model: Fitting = Fitting()
    """The reward model, which is fitted where the optimizer learns from rollouts."""

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out pairs for the reward model, and for an optimizer that learns from the pairs, as
    ``data.eval``. null holds out ``data.holdout`` of them."""
