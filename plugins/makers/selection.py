"""The source ``selection``: of many pairs of responses those that are worth a label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Annotated, Any, Literal

from annotated_types import Gt

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.maker import Made, Maker
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.reward import Score
from trimtab.core.seeds import mixed
from trimtab.core.source import Setting
from trimtab.plugins.makers.answered import AnsweredRows, account, pairs, responses
from trimtab.plugins.makers.columns import row_of
from trimtab.plugins.sources.load import Kept

UNSCORED = "fewer than two responses have a score of every member"
ALONE = "fewer than two responses"


class SelectionConfig(Config):
    """How pairs are chosen, and how many."""

    by: Literal["disagreement", "random"] = "disagreement"
    """disagreement: where the members of the run's reward ensemble disagree most on which response
    is better. random: by ``train.seed``, for comparison at the same budget."""

    budget: Annotated[int, Gt(0)]
    """Pairs that are chosen; fewer where there are not so many."""

    per_prompt: Annotated[int, Gt(0)] = 1
    """At most so many pairs of one row."""


class Selection(Maker[SelectionConfig]):
    """Active selection of pairs to label, by the disagreement of a reward ensemble.

        d(a, b) = std over members m of (r_m(a) - r_m(b)),  unbiased

    Christiano et al. 2017, arXiv:1706.03741, section 2.2.4; on language models Gleave and Irving
    2022, arXiv:2203.07472. ``data.train`` has rows with ``responses``, such as ``candidates``
    makes. A row of the data set is ``prompt``, ``responses`` (two, in the order of the data) and
    ``disagreement``, and the other columns; those that disagree most come first.

    The ensemble is the first reward with several members: ``{name: reward_model, from: ...}`` of a
    run of the objective reward_model with ``members`` of 2 or more.
    """

    name = "selection"
    options = SelectionConfig

    @property
    def scores(self) -> bool:
        return self.config.by == "disagreement"

    def open(self, setting: Setting) -> None:
        if self.scores and setting.rewards is None:
            raise UserError(f"selection by disagreement asks an ensemble, and {_NO_ENSEMBLE}")
        self.setting, self.read = setting, AnsweredRows(setting)

    def steps(self, rows: int) -> int:
        return -(-len(self.read.rows) // rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        chosen = self.read.of_step(step, rows)
        if not self.scores:
            found = [self._drawn(row) for row in chosen]
            return self._made(chosen, found, ALONE)
        members = self._members()
        rewards = self.setting.rewards
        assert rewards is not None
        scores = rewards.score(self.read.groups(chosen), self.setting.processes, learn=True)
        notes = [str(fault) for fault in rewards.drain_faults()]
        found = [
            self._disagreements(row, of_row, members)
            for row, of_row in zip(chosen, scores, strict=True)
        ]
        return self._made(chosen, found, UNSCORED, notes, rewards.drain_figures())

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The first of them within the budget, those that disagree most or by seed."""
        key = (lambda n: -rows[n]["disagreement"]) if self.scores else self._key
        return [rows[n] for n in sorted(range(len(rows)), key=key)[: self.config.budget]]

    def describe(self) -> Mapping[str, Any]:
        rewards = self.setting.rewards
        return {
            **account(self.read),
            "by": self.config.by,
            "budget": self.config.budget,
            **({"rewards": rewards.describe()} if rewards else {}),
        }

    def _key(self, place: int) -> int:
        return mixed(self.setting.seed, "selection", place)

    def _members(self) -> list[str]:
        """The names of the parts that the ensemble's members have in a score."""
        assert self.setting.rewards is not None
        for label, said in self.setting.rewards.describe().items():
            if len(said.get("members", ())) > 1:
                return [f"{label}/{member}" for member in said["members"]]
        raise UserError(f"selection by disagreement asks an ensemble, and {_NO_ENSEMBLE}")

    def _disagreements(
        self, row: Kept, scores: Sequence[Score], members: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The row's pairs on which the members disagree most."""
        by_response = [[score.parts.get(member) for member in members] for score in scores]
        found = []
        for i, j in pairs(row):
            both = list(zip(by_response[i], by_response[j], strict=True))
            gaps = [a - b for a, b in both if a is not None and b is not None]
            if len(gaps) == len(members):
                found.append((stdev(gaps), i, j))
        found.sort(key=lambda pair: -pair[0])
        return [
            _pair(row, i, j, {"disagreement": disagreement})
            for disagreement, i, j in found[: self.config.per_prompt]
        ]

    def _drawn(self, row: Kept) -> list[dict[str, Any]]:
        """Some of the row's pairs, by a stream of its own."""
        seed = self.setting.seed
        drawn = sorted(pairs(row), key=lambda pair: mixed(seed, "pair", row.row, *pair))
        return [_pair(row, i, j, {}) for i, j in drawn[: self.config.per_prompt]]

    def _made(
        self,
        rows: Sequence[Kept],
        found: Sequence[Sequence[dict[str, Any]]],
        reason: str,
        notes: Sequence[str] = (),
        figures: Mapping[str, float] | None = None,
    ) -> Made:
        made = [pair for of_row in found for pair in of_row]
        metrics = dict(figures or {})
        if made and self.scores:
            metrics["disagreement"] = mean(pair["disagreement"] for pair in made)
        return Made(
            rows=made,
            metrics=metrics,
            notes=notes,
            read=len(rows),
            dropped=[
                {"row": row.row, "reason": reason}
                for row, of_row in zip(rows, found, strict=True)
                if not of_row
            ],
            counts={"pairs compared": sum(len(pairs(row)) for row in rows)},
        )


_NO_ENSEMBLE = (
    "no reward of this run is one: give reward: [{name: reward_model, from: RUN}], RUN trained by "
    "the objective reward_model with members: 2 or more; or select by: random"
)


def _pair(row: Kept, first: int, second: int, said: Mapping[str, Any]) -> dict[str, Any]:
    both = responses(row)
    return row_of(row, {"responses": [both[first], both[second]], **said})


@hookimpl
def provide_sources() -> Sequence[type]:
    return [Selection]
