"""The source ``candidates``: several completions of each prompt, scored if there are rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.core.hookspecs import hookimpl
from trimtab.core.maker import Made, Maker
from trimtab.core.policy import Policy
from trimtab.core.source import Setting
from trimtab.plugins.makers.asking import Answered, Asking, AskingConfig, check_group
from trimtab.plugins.makers.columns import row_of

FEW = "fewer than two completions could be used"


class Candidates(Maker[AskingConfig]):
    """Every prompt of ``data.train`` answered by ``rollout.group`` completions (4 by default).

    A row is ``prompt``, ``responses`` and, with rewards, ``scores``, the weighted sum for each
    response; beside them stand the prompt row's other columns. It can be read as a ranking, and be
    labelled or selected from. ``train.rows`` prompts are answered in a step, and ``train.epochs``
    above 1 samples anew. What no reward could score, what cannot be read again, and what repeats
    another completion of its prompt is left out and counted; a prompt that is left with fewer than
    two is dropped, with its number.
    """

    name = "candidates"
    options = AskingConfig
    samples = True
    renewed = True
    group = 4

    def open(self, setting: Setting) -> None:
        check_group(setting, self.name)
        self.asking = Asking(setting, self.config, distinct=True)

    def steps(self, rows: int) -> int:
        return self.asking.steps(rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        answered, made = self.asking.ask(step, rows)
        return replace(
            made,
            rows=[_row(each) for each in answered if len(each.answers) > 1],
            dropped=[
                {"row": each.row.row, "reason": FEW} for each in answered if len(each.answers) < 2
            ],
        )

    def describe(self) -> Mapping[str, Any]:
        return self.asking.describe()


def _row(one: Answered) -> dict[str, Any]:
    scores = [answer.score for answer in one.answers]
    made = {"responses": [answer.written for answer in one.answers]}
    return row_of(one.row, made if None in scores else {**made, "scores": scores})


@hookimpl
def provide_sources() -> Sequence[type]:
    return [Candidates]
