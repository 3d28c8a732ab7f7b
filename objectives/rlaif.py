"""Learning from AI feedback: a judge labels pairs, or its scores are the reward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trimtab import Around, Labelled, Pairs, Part, Recipe, Rollouts, hookimpl
from trimtab.core.errors import UserError
from trimtab.core.recipe import OptionError
from trimtab.objectives.feedback_options import is_ours, option_of
from trimtab.objectives.feedback_stages import (
    BY_THE_JUDGE,
    candidates_part,
    check_no_proxy,
    check_nothing_fitted,
    fitted_with,
    gold,
    judge_of,
    labels_part,
    learning,
    proxy,
    reward_model_part,
)
from trimtab.objectives.rlaif_options import RLAIFConfig

"""What the judge is asked, of each kind of feedback."""

OF_BOTH = {"feedback", "optimizer"}
"""The options that have a meaning with either feedback."""

OF_ROLLOUTS = ("n", "prompts")

ITS_OWN = ("soft", "budget")
"""Options of the source ``labels`` that are the recipe's."""


class RLAIF(Recipe[RLAIFConfig]):
    """Learn from the judge's feedback in place of people's.

        preference:   P(y_1 > y_2 | x), as the judge says it, labels pairs
        score:        r(x, y) = E[score], as the judge says it, is the reward

    Lee et al. 2023, arXiv:2309.00267: labels as in section 2.1, and direct-RLAIF of 2.2.2.
    ``judge`` names who judges; without one it is the run's own model with its adapters off. The
    stages of preference: ``candidates`` answers the prompts of ``data`` (``pairs: data`` has
    none), ``labels`` asks the judge, ``rm`` fits a reward model where the optimizer learns from
    rollouts, and ``policy`` trains. Score is one stage.

    The file's rewards are added to the judge's score or the reward model's, each by its weight:
    ``weight: 0`` watches. An optimizer that learns from the labels cannot learn from rewards, so
    there all are watched. The stage ``labels`` says how often the judge agrees with them.
    """

    name = "rlaif"
    options = RLAIFConfig

    def expand(self, around: Around) -> Sequence[Part]:
        around.refuse_source()
        _check_mode(self.config, around)
        if self.config.feedback == "score":
            return [self._scored(around)]
        return list(self._preferred(around))

    def _scored(self, around: Around) -> Part:
        given = sorted(self.config.model_fields_set - OF_BOTH)
        if given:
            raise OptionError(
                given[0], "this is of feedback: preference, and feedback is score: leave it out"
            )
        judging = [{"name": BY_THE_JUDGE}]
        if BY_THE_JUDGE in [reward.get("name") for reward in around.rewards]:
            judging = []  # as the file has it
        elif BY_THE_JUDGE in [reward.get("label") for reward in around.rewards]:
            raise UserError(
                f"a reward is labelled {BY_THE_JUDGE!r}, which is what the log calls the judge's "
                "score: give it another label"
            )
        return Part(
            "train",
            {
                "objective": around.objective(self.config.optimizer, Rollouts),
                "judge": {**judge_of(around), "mode": "score"},
                "reward": [*judging, *around.rewards],
            },
        )

    def _preferred(self, around: Around) -> Iterator[Part]:
        config = self.config
        optimizer = around.objective(config.optimizer, Pairs, Labelled, Rollouts)
        learns_from = around.learns_from(optimizer["name"])
        if learns_from is not Rollouts:
            check_nothing_fitted(config, optimizer)
        labels = _labels(config, certain=learns_from is Labelled)
        rewards: list[dict[str, Any]] = around.rewards
        judge = judge_of(around)
        made = None
        if config.pairs == "rollouts":
            made = "candidates"
            yield candidates_part(
                made,
                around,
                n=config.n,
                model=around.section("model"),
                seed=around.seed,
                prompts=config.prompts,
            )
        elif given := [name for name in OF_ROLLOUTS if name in config.model_fields_set]:
            raise OptionError(
                given[0], "this is of pairs: rollouts, and pairs is data: leave it out"
            )
        yield labels_part(
            "labels",
            around,
            labels,
            made=made,
            seed=around.seed,
            reward=gold(around) or None,
            judge=judge,
        )
        if learns_from is Rollouts:
            check_no_proxy(around)
            yield reward_model_part(
                "rm",
                around,
                config.reward_model,
                fitted_with(around, config.reward_model),
                labels="labels",
                seed=around.seed,
                held_out=config.eval,
            )
            rewards = [proxy(config.reward_model, "rm"), *rewards]
        yield Part(
            "policy",
            {
                "objective": optimizer,
                "judge": judge if around.rewards else None,
                **learning(
                    around,
                    learns_from,
                    labels="labels",
                    held_out=config.eval,
                    rewards=rewards,
                    sampled=made is not None,
                ),
            },
        )


def _check_mode(config: RLAIFConfig, around: Around) -> None:
    """A reward is a score; pairs are compared, or rated where the judge's mode says so."""
    given = around.section("judge").get("mode", "score")
    if config.feedback == "score" and given != "score":
        raise OptionError(
            "feedback",
            f"with feedback: score the judge rates each completion, and judge.mode is {given}: "
            "leave judge.mode out, or change the feedback",
        )


def _labels(config: RLAIFConfig, *, certain: bool) -> Mapping[str, Any]:
    """The section ``source`` of the labels; ``certain`` where no probabilities can be used."""
    source = config.labels.model_dump(mode="json")
    if not is_ours(config.labels):
        return source
    if option_of(config.labels, "by", "judge") != "judge":
        raise OptionError("labels.by", "AI feedback is labels by judge: leave it out")
    if given := [name for name in ITS_OWN if name in config.labels.options]:
        raise OptionError(
            f"labels.{given[0]}", f"this is the recipe's own option {given[0]!r}: give it there"
        )
    if config.soft and certain:
        raise OptionError(
            "soft",
            "the optimizer learns from completions that are good or bad, and an uncertain pair "
            "says of neither which it is: leave soft out",
        )
    soft = not certain if config.soft is None else config.soft
    return {**source, "by": "judge", "soft": soft, "budget": config.budget}


@hookimpl
def provide_objectives() -> Sequence[type]:
    """Register rlaif."""
    return [RLAIF]
