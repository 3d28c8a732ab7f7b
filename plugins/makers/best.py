"""The source ``best``: of several completions of each prompt the one with the highest reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import Gt, Le

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.maker import Made, Maker
from trimtab.core.policy import Policy
from trimtab.core.source import Setting
from trimtab.plugins.makers.asking import Answered, Asking, AskingConfig, check_group
from trimtab.plugins.makers.columns import row_of

NONE = "no completion could be used"
TOO_LOW = "the best reward is below the least"


class BestConfig(AskingConfig):
    """Which prompts are answered, and which of the best answers are kept."""

    share: Annotated[float, Gt(0), Le(1)] = 1.0
    """This share of the rows, those whose best reward is highest; at least one row."""

    least: float | None = None
    """A best reward below it is not kept."""


class Best(Maker[BestConfig]):
    """Rejection sampling (Llama 2: Touvron et al. 2023, arXiv:2307.09288, section 3.2.3).

        y* = argmax of r(x, y) over y_1 .. y_n ~ pi(. | x),  n = rollout.group (4 by default)

    A row is ``prompt``, ``completion``, ``reward`` (that of y*), ``mean`` (over the completions
    that could be used) and ``of`` (how many those were), and the prompt row's other columns; it is
    read as a demonstration. Of equal rewards the one that was sampled first counts.
    """

    name = "best"
    options = BestConfig
    samples = True
    renewed = True
    group = 4

    def open(self, setting: Setting) -> None:
        if setting.rewards is None:
            raise UserError(
                "the source 'best' chooses by reward, and the run file names none: give "
                "reward: [{name: ...}] (trimtab plugins lists them)"
            )
        check_group(setting, self.name)
        self.asking = Asking(setting, self.config, distinct=False)

    def steps(self, rows: int) -> int:
        return self.asking.steps(rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        answered, made = self.asking.ask(step, rows)
        made_rows, dropped = [], []
        for each in answered:
            row = _row(each) if each.answers else None
            if row is None:
                dropped.append({"row": each.row.row, "reason": NONE})
            elif self.config.least is not None and row["reward"] < self.config.least:
                dropped.append({"row": each.row.row, "reason": TOO_LOW})
            else:
                made_rows.append(row)
        return replace(made, rows=made_rows, dropped=dropped)

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The share with the highest rewards, in the order in which they were made."""
        if not rows:
            return rows
        wanted = max(1, round(self.config.share * len(rows)))
        places = sorted(range(len(rows)), key=lambda place: -rows[place]["reward"])[:wanted]
        return [rows[place] for place in sorted(places)]

    def describe(self) -> Mapping[str, Any]:
        return self.asking.describe()


def _row(one: Answered) -> dict[str, Any]:
    rewards = [answer.score for answer in one.answers if answer.score is not None]
    best = max(rewards)
    made = {
        "completion": one.answers[rewards.index(best)].written,
        "reward": best,
        "mean": math.fsum(rewards) / len(rewards),
        "of": len(rewards),
    }
    return row_of(one.row, made)


@hookimpl
def provide_sources() -> Sequence[type]:
    return [Best]
