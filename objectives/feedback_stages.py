"""Stages that recipes of feedback share: candidates -> labels -> a reward model -> the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab import Around, Batch, Config, Pairs, Part, Ranked, Rollouts
from trimtab.core.errors import UserError
from trimtab.core.recipe import OptionError
from trimtab.core.training import TrainConfig
from trimtab.objectives.feedback_options import Fitting

PROXY = "proxy"
"""What the log calls the reward model that was fitted to labels."""

SELF = {"name": "local"}
"""The judge where the run file names none: the run's own model, without its adapters."""

BY_THE_JUDGE = "judge"
"""The reward that asks the judge."""


def judge_of(around: Around) -> dict[str, Any]:
    """The section ``judge``; without one, the run's own model judges."""
    return around.section("judge") or dict(SELF)


def gold(around: Around) -> list[dict[str, Any]]:
    """The rewards with which a judge's labels are compared: not those that ask it again, and
    without running means, which no part has that only measures."""
    return [
        {k: v for k, v in reward.items() if k != "standardize"}
        for reward in around.rewards
        if reward.get("name") != BY_THE_JUDGE
    ]


def check_no_proxy(around: Around) -> None:
    """``UserError`` where a reward has the name that a fitted one gets."""
    if PROXY in [reward.get("label", reward.get("name")) for reward in around.rewards]:
        raise UserError(
            f"a reward is labelled {PROXY!r}, which is what the log calls the reward model of the "
            "labels: give it another label"
        )


def fitted_with(around: Around, fitting: Fitting) -> dict[str, Any]:
    """The section ``objective`` of a reward model."""
    return around.objective(fitting.objective, Ranked, option="reward_model.objective")


def check_nothing_fitted(config: Config, optimizer: Mapping[str, Any]) -> None:
    """``OptionError`` for options of a reward model that an optimizer on labels does not have."""
    if "reward_model" in config.model_fields_set:
        raise OptionError(
            "reward_model",
            f"the optimizer {optimizer['name']!r} learns from the pairs, and no reward model "
            "is fitted: choose one that learns from rollouts, or leave reward_model out",
        )


def candidates_part(
    name: str,
    around: Around,
    *,
    n: int,
    model: Mapping[str, Any],
    seed: int,
    prompts: int | None = None,
    skip: int = 0,
) -> Part:
    """``n`` completions of each prompt of ``data``, by the policy that ``model`` starts from."""
    source: dict[str, Any] = {"name": "candidates"}
    if prompts is not None:
        source |= {"prompts": prompts, "skip": skip}
    return Part(
        name,
        {
            **around.making(seed),
            "source": source,
            "model": model,
            "rollout": {**around.section("rollout"), "group": n},
            "reward": None,
            "judge": None,
        },
    )


def of_rows(around: Around, seed: int) -> dict[str, Any]:
    """Sections of a part that reads rows and samples nothing."""
    rollout = around.section("rollout")
    scoring = {k: rollout[k] for k in ("reward_timeout", "max_unscored") if k in rollout}
    return {**around.making(seed), "model": around.base, "rollout": scoring or None}


def labels_part(
    name: str,
    around: Around,
    source: Mapping[str, Any],
    *,
    made: str | None,
    seed: int,
    reward: Sequence[Mapping[str, Any]] | None,
    judge: Mapping[str, Any] | None,
) -> Part:
    """Labels of what the part ``made`` made; None reads the file's own ``data``."""
    data = {"data": around.data_of([f"stages.{made}"])} if made else {}
    sections = {"source": source, "reward": reward, "judge": judge}
    return Part(name, {**of_rows(around, seed), **data, **sections})


def reward_model_part(
    name: str,
    around: Around,
    fitting: Fitting,
    objective: Mapping[str, Any],
    *,
    labels: str,
    seed: int,
    held_out: str | None = None,
) -> Part:
    """A reward model of the labels that the part ``labels`` made, for one epoch by default.

    ``seed`` takes the place of ``train.seed``; one that ``fitting`` gives is counted from there.
    """
    given = given_of(fitting.train)
    own = given.get("seed", around.seed) + seed - around.seed
    return Part(
        name,
        {
            **dict.fromkeys(("reward", "judge", "rollout", "reference", "streams", "watch")),
            "objective": objective,
            "data": around.data_of([f"stages.{labels}"], eval=held_out),
            "model": {**around.section("model"), **fitting.model},
            "train": {**untimed(around), **given, "seed": own},
        },
    )


def given_of(train: TrainConfig | None) -> dict[str, Any]:
    """What such an option gives of the section ``train``."""
    return {} if train is None else train.model_dump(mode="json", exclude_unset=True)


def untimed(around: Around) -> dict[str, Any]:
    """The section ``train`` without how long: one epoch."""
    train = around.section("train").items()
    return {key: value for key, value in train if key not in ("steps", "epochs")}


def proxy(fitting: Fitting, reward_model: str) -> dict[str, Any]:
    """The reward model of that part, as a reward."""
    return {
        "name": "reward_model",
        "label": PROXY,
        **fitting.reward,
        "from": f"stages.{reward_model}",
    }


def learning(
    around: Around,
    learns_from: type[Batch],
    *,
    labels: str,
    held_out: str | None,
    rewards: Sequence[Mapping[str, Any]],
    sampled: bool = True,
) -> dict[str, Any]:
    """The sections that tell an optimizer what to learn from: one that learns from rollouts has
    ``rewards``, any other the labels that the part ``labels`` made.

    ``sampled`` says that what was labelled answers the file's prompts, less those held out.
    """
    if learns_from is Rollouts:
        return {"reward": rewards}
    changes = {} if learns_from is Pairs else {"convert": "pairs-to-labels"}
    data_of = around.learned_from if sampled else around.data_of
    return {"data": data_of([f"stages.{labels}"], eval=held_out, **changes)}
