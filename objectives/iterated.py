"""Iterated training: sample, label, refit, continue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import Around, Batch, Labelled, Pairs, Part, Recipe, Rollouts, hookimpl
from trimtab.core.recipe import OptionError
from trimtab.objectives.feedback_options import Fitting, option_of
from trimtab.objectives.feedback_stages import (
    candidates_part,
    check_no_proxy,
    fitted_with,
    labels_part,
    learning,
    of_rows,
    proxy,
    reward_model_part,
)
from trimtab.objectives.iterated_options import ROUND, IteratedConfig, Selecting

MEMBERS = 3
"""Of the ensemble, where the run file does not say."""


class Iterated(Recipe[IteratedConfig]):
    """In rounds: sample from the policy, label pairs, fit to all labels so far, and go on.

    Bai et al. 2022, arXiv:2204.05862, section 4.5 (iterated online RLHF: new comparisons of the
    best policy each week, a new reward model of old and new ones, a new policy). With an optimizer
    that learns from pairs there is no reward model: iterative preference optimization, as Xiong
    et al. 2023, arXiv:2312.11456. ``begin: first`` with an optimizer on rollouts is nearest to
    Bai's, where every policy is trained anew.

    The stages of round R: ``candidates-R`` answers prompts of ``data``; ``selection-R`` takes the
    pairs worth a label; ``labels-R`` adds their labels to those of all earlier rounds; ``rm-R``
    fits the reward model, and ``policy-R`` trains. The reward model is then the only reward that
    counts, and those of the file, gold among them, are watched.
    """

    name = "iterated"
    options = IteratedConfig

    def expand(self, around: Around) -> Sequence[Part]:
        around.refuse_source()
        return [
            part
            for number in range(1, self.config.rounds + 1)
            for part in _Rounds.of(self.config, around).parts(number)
        ]


@dataclass(frozen=True)
class _Rounds:
    """The parts of each round."""

    config: IteratedConfig
    around: Around
    optimizer: Mapping[str, Any]
    learns_from: type[Batch]
    fit: Mapping[str, Any] | None
    """What reward models learn with; None where none is fitted."""

    @classmethod
    def of(cls, config: IteratedConfig, around: Around) -> _Rounds:
        """The choices that all rounds share."""
        optimizer = around.objective(config.optimizer, Pairs, Labelled, Rollouts)
        learns_from = around.learns_from(optimizer["name"])
        _check_labels(config, around)
        _check_select(config.select)
        disagreeing = option_of(config.select, "by", "disagreement") == "disagreement"
        if disagreeing and config.rounds == 1:
            raise OptionError(
                "select.by",
                "in the first round there is no reward model to disagree: "
                "give 2 rounds or more, or by: random",
            )
        fit: Mapping[str, Any] | None = None
        if disagreeing or learns_from is Rollouts:
            fit = fitted_with(around, config.reward_model)
        if disagreeing and fit is not None:
            fit = _ensemble(config, fit)
        return cls(config, around, optimizer, learns_from, fit)

    def parts(self, number: int) -> Iterator[Part]:
        """Of one round, counted from 1."""
        yield self._candidates(number)
        if self.config.select is not None:
            yield self._selection(number, self.config.select)
        yield self._labels(number)
        fitted = self.learns_from is Rollouts or number < self.config.rounds
        if self.fit is not None and fitted:
            yield self._reward_model(number, self.fit)
        yield self._policy(number)

    def _candidates(self, number: int) -> Part:
        config, around = self.config, self.around
        chosen = (
            config.prompts is not None
        )  # one order of the prompts: no two rounds have the same
        model = around.section("model")
        if number > 1:
            model = {**around.base, "start": f"stages.policy-{number - 1}"}
        return candidates_part(
            f"candidates-{number}",
            around,
            n=config.n,
            model=model,
            seed=around.seed if chosen else self._seed(number),
            prompts=config.prompts,
            skip=(config.prompts or 0) * (number - 1),
        )

    def _selection(self, number: int, select: Selecting) -> Part:
        source = select.model_dump(mode="json")
        reward = None
        if option_of(select, "by", "disagreement") == "disagreement":
            if number == 1:
                source["by"] = "random"
            else:
                reward = [proxy(Fitting(), f"rm-{number - 1}")]
        return Part(
            f"selection-{number}",
            {
                **of_rows(self.around, self._seed(number)),
                "source": source,
                "data": self.around.data_of([f"stages.candidates-{number}"]),
                "reward": reward,
                "judge": None,
            },
        )

    def _labels(self, number: int) -> Part:
        labels = self.config.labels.model_dump(mode="json")
        if isinstance(labels.get("file"), str):
            labels["file"] = labels["file"].replace(ROUND, str(number))
        if number > 1:
            labels["earlier"] = [f"stages.labels-{number - 1}"]
        rows = "candidates" if self.config.select is None else "selection"
        by = option_of(self.config.labels, "by", "reward")
        return labels_part(
            f"labels-{number}",
            self.around,
            labels,
            made=f"{rows}-{number}",
            seed=self._seed(number),
            reward=self.around.judging if by in ("reward", None) else None,
            judge=self.around.sections.get("judge") if by in ("judge", None) else None,
        )

    def _reward_model(self, number: int, fit: Mapping[str, Any]) -> Part:
        return reward_model_part(
            f"rm-{number}",
            self.around,
            self.config.reward_model,
            fit,
            labels=f"labels-{number}",
            seed=self._seed(number),
            held_out=self.config.eval,
        )

    def _policy(self, number: int) -> Part:
        around, model = self.around, self.around.section("model")
        if number > 1 and self.config.begin == "latest":
            model["start"] = f"stages.policy-{number - 1}"
        watched = [{**reward, "weight": 0.0} for reward in around.rewards]
        return Part(
            f"policy-{number}",
            {
                "objective": self.optimizer,
                "model": model,
                "train": {**around.section("train"), "seed": self._seed(number)},
                **learning(
                    around,
                    self.learns_from,
                    labels=f"labels-{number}",
                    held_out=self.config.eval,
                    rewards=[proxy(self.config.reward_model, f"rm-{number}"), *watched],
                ),
            },
        )

    def _seed(self, number: int) -> int:
        return self.around.seed + number - 1


def _check_labels(config: IteratedConfig, around: Around) -> None:
    by = option_of(config.labels, "by", "reward")
    if by == "reward" and not around.counting:
        raise OptionError(
            "labels",
            "the labels are given by reward, and the run file names none that counts: give "
            "reward: [{name: ...}] (trimtab plugins lists them), or labels: {by: judge} or file",
        )
    if by == "judge" and around.sections.get("judge") is None:
        raise OptionError("labels.by", "the run file names no judge: give judge: {name: ...}")
    check_no_proxy(around)


def _check_select(select: Selecting | None) -> None:
    if select is not None and option_of(select, "budget", 0) == 0:
        raise OptionError("select.budget", "this is required: how many pairs a round has labelled")


def _ensemble(config: IteratedConfig, fit: Mapping[str, Any]) -> Mapping[str, Any]:
    """What reward models learn with, when their members are to disagree."""
    if config.reward_model.objective is None:
        return {**fit, "members": MEMBERS}
    if fit.get("members", 1) < 2:
        raise OptionError(
            "reward_model.objective",
            "pairs are selected by the disagreement of an ensemble: give it members: 2 or more",
        )
    return fit


@hookimpl
def provide_objectives() -> Sequence[type]:
    """Register iterated."""
    return [Iterated]
