"""Options of learning from AI feedback."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

from trimtab import Config
from trimtab.core.config import Selected
from trimtab.core.options import LocalPath, OfKind
from trimtab.objectives.feedback_options import Fitting, Labelling


class RLAIFConfig(Config):
    """Options of learning from AI feedback."""

    feedback: Literal["preference", "score"] = "preference"
    """What the judge gives: labels of pairs, of which it says which completion is better (with
    ``judge.mode: score``, which one it rates higher); or how good each is, as the reward itself
    (direct-RLAIF). What follows below but for ``optimizer`` is of preference."""

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """The objective that the policy learns with, and its options. Of preference, any one that
    learns from pairs or from labelled completions learns from the labels, one that learns from
    rollouts has a reward model of them; null is the built-in one for pairs. Of score, any one that
    learns from rollouts."""

    pairs: Literal["rollouts", "data"] = "rollouts"
    """What is labelled: the policy's own completions of the prompts of ``data``; or the responses
    that the rows of ``data`` have, whatever they say of which is better."""

    n: Annotated[int, Ge(2)] = 2
    """Completions of each prompt, of ``pairs: rollouts``."""

    prompts: Annotated[int, Gt(0)] | None = None
    """How many prompts are answered, of ``pairs: rollouts``; null is all."""

    budget: Annotated[int, Gt(0)] | None = None
    """Rows that are labelled, by an order that follows from ``train.seed``; null is all."""

    soft: bool | None = None
    """A label is P(chosen is better), as the judge has it; false takes it for certain. null is
    true, unless the optimizer learns from labelled completions: thumbs go up or down."""

    labels: Annotated[Labelling, OfKind("source")] = Labelling()
    """Other options of the source ``labels``, such as ``pairs: all``."""

    reward_model: Fitting = Fitting()
    """The reward model, which is fitted where the optimizer learns from rollouts."""

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out rows for the reward model, and for an optimizer that learns from the labels, as
    ``data.eval``. null holds out ``data.holdout`` of them."""
