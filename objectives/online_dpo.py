"""Online preference optimization: the pairs are of what the policy samples now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from trimtab import Around, Config, Pairs, Part, Recipe, hookimpl
from trimtab.core.config import Selected
from trimtab.core.options import OfKind

TWO = 2


class OnlineDPOConfig(Config):
    """Options of online preference optimization."""

    optimizer: Annotated[Selected | None, OfKind("objective")] = None
    """The objective that learns from the pairs, any one that learns from pairs, with its options.

    null is the built-in one.
    """

    pairs: Literal["best_worst", "all"] = "best_worst"
    """Of a prompt's completions: the best against the worst by reward, or every ranked pair."""

    soft: bool = False
    """The label of a pair is sigmoid(the difference of rewards), and not 1."""

    least_gap: Annotated[float, Ge(0)] = 0.0
    """Completions whose rewards differ by no more are a tie, and make no pair."""


class OnlineDPO(Recipe[OnlineDPOConfig]):
    """Learn from pairs of the policy's own completions, sampled in each step and ranked by reward.

        y_1 ... y_G ~ pi(.|x);   chosen = argmax_i r(x, y_i),   rejected = argmin_i r(x, y_i)

    Guo et al. 2024, arXiv:2402.04792, algorithm 1, with rewards in place of an annotator; they
    take two completions, and so does this where ``rollout.group`` is not given. With more, best
    against worst is Xu et al. 2023, arXiv:2312.16682 (pairwise cringe), and Dong et al. 2024,
    arXiv:2405.07863. ``data`` gives the prompts, ``reward`` ranks. It is one stage: the source
    ``rollout_pairs`` and the optimizer.
    """

    name = "online_dpo"
    options = OnlineDPOConfig

    def expand(self, around: Around) -> Sequence[Part]:
        config = self.config
        around.refuse_source()
        around.want_rewards("pairs are made")
        rollout = around.section("rollout")
        return [
            Part(
                "train",
                {
                    "source": {
                        "name": "rollout_pairs",
                        "pairs": config.pairs,
                        "soft": config.soft,
                        "least_gap": config.least_gap,
                    },
                    "objective": around.objective(config.optimizer, Pairs),
                    "rollout": {**rollout, "group": rollout.get("group") or TWO},
                },
            )
        ]


@hookimpl
def provide_objectives() -> Sequence[type]:
    """Register online_dpo."""
    return [OnlineDPO]
