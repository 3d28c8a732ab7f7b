"""Iterated training: sample, label, refit, continue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab import Around, Batch, Labelled, Pairs, Part, Ranked, Recipe, Rollouts, hookimpl
from trimtab.core.config import Selected
from trimtab.core.errors import UserError
from trimtab.core.recipe import OptionError
from trimtab.objectives.iterated_options import ROUND, IteratedConfig, Selecting

PROXY = "proxy"
"""What the log calls the reward model that was fitted to the labels."""

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
        disagreeing = _option(config.select, "by", "disagreement") == "disagreement"
        if disagreeing and config.rounds == 1:
            raise OptionError(
                "select.by",
                "in the first round there is no reward model to disagree: "
                "give 2 rounds or more, or by: random",
            )
        fit: Mapping[str, Any] | None = None
        if disagreeing or learns_from is Rollouts:
            fit = around.objective(
                config.reward_model.objective, Ranked, option="reward_model.objective"
            )
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
        source: dict[str, Any] = {"name": "candidates"}
        seed = self._seed(number)
        if config.prompts is not None:  # one order of the prompts: no two rounds have the same
            seed = around.seed
            source |= {"prompts": config.prompts, "skip": config.prompts * (number - 1)}
        model = around.section("model")
        if number > 1:
            model = {**around.base, "start": f"stages.policy-{number - 1}"}
        return Part(
            f"candidates-{number}",
            {
                **around.making(seed),
                "source": source,
                "model": model,
                "rollout": {**around.section("rollout"), "group": config.n},
                "reward": None,
                "judge": None,
            },
        )

    def _selection(self, number: int, select: Selecting) -> Part:
        source = select.model_dump(mode="json")
        reward = None
        if _option(select, "by", "disagreement") == "disagreement":
            if number == 1:
                source["by"] = "random"
            else:
                reward = [self._proxy(number - 1, {})]
        return Part(
            f"selection-{number}",
            {
                **self._of_rows(number),
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
        by = _option(self.config.labels, "by", "reward")
        return Part(
            f"labels-{number}",
            {
                **self._of_rows(number),
                "source": labels,
                "data": self.around.data_of([f"stages.{rows}-{number}"]),
                "reward": self.around.judging if by in ("reward", None) else None,
                "judge": self.around.sections.get("judge") if by in ("judge", None) else None,
            },
        )

    def _reward_model(self, number: int, fit: Mapping[str, Any]) -> Part:
        config, around = self.config.reward_model, self.around
        given = config.train.model_dump(mode="json", exclude_unset=True) if config.train else {}
        kept = {k: v for k, v in around.section("train").items() if k not in ("steps", "epochs")}
        seed = given.get("seed", around.seed) + number - 1
        return Part(
            f"rm-{number}",
            {
                **dict.fromkeys(("reward", "judge", "rollout", "reference", "streams", "watch")),
                "objective": fit,
                "data": around.data_of([f"stages.labels-{number}"], eval=self.config.eval),
                "model": {**around.section("model"), **config.model},
                "train": {**kept, **given, "seed": seed},
            },
        )

    def _policy(self, number: int) -> Part:
        around, model = self.around, self.around.section("model")
        if number > 1 and self.config.begin == "latest":
            model["start"] = f"stages.policy-{number - 1}"
        sections: dict[str, Any] = {
            "objective": self.optimizer,
            "model": model,
            "train": {**around.section("train"), "seed": self._seed(number)},
        }
        if self.learns_from is Rollouts:
            watched = [{**reward, "weight": 0.0} for reward in around.rewards]
            sections["reward"] = [self._proxy(number, self.config.reward_model.reward), *watched]
        else:
            changes = {} if self.learns_from is Pairs else {"convert": "pairs-to-labels"}
            sections["data"] = around.data_of(
                [f"stages.labels-{number}"], eval=self.config.eval, **changes
            )
        return Part(f"policy-{number}", sections)

    def _of_rows(self, number: int) -> dict[str, Any]:
        """Sections of a part that reads rows and samples nothing."""
        rollout = self.around.section("rollout")
        scoring = {k: rollout[k] for k in ("reward_timeout", "max_unscored") if k in rollout}
        return {
            **self.around.making(self._seed(number)),
            "model": self.around.base,
            "rollout": scoring or None,
        }

    def _proxy(self, number: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """The reward model of a round, as a reward."""
        return {
            "name": "reward_model",
            "label": PROXY,
            **options,
            "from": f"stages.rm-{number}",
        }

    def _seed(self, number: int) -> int:
        return self.around.seed + number - 1


def _option(chosen: Selected | None, option: str, default: Any) -> Any:
    """An option of a source; None where it is another source than ours, or there is none."""
    if chosen is None or chosen.name != type(chosen).model_fields["name"].default:
        return None
    return chosen.options.get(option, default)


def _check_labels(config: IteratedConfig, around: Around) -> None:
    by = _option(config.labels, "by", "reward")
    if by == "reward" and not around.counting:
        raise OptionError(
            "labels",
            "the labels are given by reward, and the run file names none that counts: give "
            "reward: [{name: ...}] (trimtab plugins lists them), or labels: {by: judge} or file",
        )
    if by == "judge" and around.sections.get("judge") is None:
        raise OptionError("labels.by", "the run file names no judge: give judge: {name: ...}")
    if PROXY in [reward.get("label", reward.get("name")) for reward in around.rewards]:
        raise UserError(
            f"a reward is labelled {PROXY!r}, which is what the log calls the reward model of the "
            "labels: give it another label"
        )


def _check_select(select: Selecting | None) -> None:
    if select is not None and _option(select, "budget", 0) == 0:
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
