"""Rejection sampling: learn from the best of n completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from trimtab import Around, Config, Demonstrations, Part, Recipe, hookimpl
from trimtab.core.config import Selected
from trimtab.core.options import LocalPath, OfKind
from trimtab.core.recipe import OptionError


class BestOfNConfig(Config):
    """Options of rejection sampling."""

    n: Annotated[int, Ge(2)] = 4
    """Completions of each prompt, of which the best by reward is learned from."""

    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Learn from this share of the prompts, those with the best rewards."""

    least: float | None = None
    """Learn from no completion whose reward is less; null is none."""

    truncated: Literal["keep", "drop"] = "keep"
    """Completions cut at ``rollout.max_new_tokens``; to imitate one is to learn to stop there."""

    rounds: Annotated[int, Ge(1)] = 1
    """How often to sample and learn, each time from the policy so far."""

    prompts: Annotated[int, Gt(0)] | None = None
    """How many prompts to answer in a round, each round's the next of the data; null is all."""

    earlier: bool = True
    """Learn from the best of the earlier rounds too."""

    eval: Annotated[str | None, LocalPath()] = None
    """Held-out demonstrations, as ``data.eval``; evaluations answer their prompts.

    null holds out ``data.holdout`` of what was sampled.
    """

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """The objective that learns from the best, any one that learns from demonstrations, with its
    options. null is the built-in one."""


class BestOfN(Recipe[BestOfNConfig]):
    """Sample n completions of each prompt, keep the best by reward, and imitate those.

        y_1 ... y_n ~ pi(.|x);   y* = argmax r(x, y_i);   maximise log pi(y*|x)

    Rejection sampling of Touvron et al. 2023 (Llama 2), arXiv:2307.09288, section 3.2.3: each
    round samples from the latest policy, and learns from the best of all rounds (``earlier``;
    learning from the last round alone lost some abilities there). Best of n alone, without
    learning, is log n - (n - 1)/n nats from the policy at most: Stiennon et al. 2020,
    arXiv:2009.01325. ``data`` gives the prompts and ``reward`` ranks.

    The stages are ``sample-R``, which makes a data set, and ``learn-R``, trained as ``train`` says
    with the rewards, so that evaluations show them.
    """

    name = "best_of_n"
    options = BestOfNConfig

    def expand(self, around: Around) -> Sequence[Part]:
        around.refuse_source()
        around.want_rewards("the best completion is the best")
        group = around.section("rollout").get("group")
        if group not in (None, self.config.n):
            raise OptionError(
                "n", f"n is {self.config.n} and rollout.group is {group}: leave rollout.group out"
            )
        optimizer = around.objective(self.config.optimizer, Demonstrations)
        rounds = range(1, self.config.rounds + 1)
        return [
            part
            for number in rounds
            for part in (self._sample(around, number), self._learn(around, number, optimizer))
        ]

    def _sample(self, around: Around, number: int) -> Part:
        config = self.config
        source = {
            "name": "best",
            "share": config.share,
            "least": config.least,
            "truncated": config.truncated,
        }
        seed = around.seed
        if config.prompts is None:
            seed += number - 1
        else:  # one order of the prompts, so that no two rounds have the same
            source |= {"prompts": config.prompts, "skip": config.prompts * (number - 1)}
        return Part(
            f"sample-{number}",
            {
                **around.making(seed),
                "source": source,
                "model": _started(around, around.base, number),
                "rollout": {**around.section("rollout"), "group": config.n},
                "reward": around.judging,
            },
        )

    def _learn(self, around: Around, number: int, optimizer: dict[str, Any]) -> Part:
        first = 1 if self.config.earlier else number
        made = [f"stages.sample-{each}" for each in range(first, number + 1)]
        return Part(
            f"learn-{number}",
            {
                "objective": optimizer,
                "data": around.learned_from(made, eval=self.config.eval),
                "model": _started(around, around.section("model"), number),
            },
        )


def _started(around: Around, model: dict[str, Any], number: int) -> dict[str, Any]:
    """``model``, from the policy of the round before; in the first round, as it is around."""
    if number == 1:
        return around.section("model")
    return {**model, "start": f"stages.learn-{number - 1}"}


@hookimpl
def provide_objectives() -> Sequence[type]:
    """Register best_of_n."""
    return [BestOfN]
