"""The source ``labels``: which of two responses is better, by reward, by a judge or by people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from annotated_types import Gt
from pydantic import model_validator

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.maker import Made, Maker
from trimtab.core.options import Config, LocalPath
from trimtab.core.policy import Policy
from trimtab.core.source import Setting
from trimtab.plugins.makers.answered import AnsweredRows, account, responses
from trimtab.plugins.makers.by_file import ByFile
from trimtab.plugins.makers.columns import row_of
from trimtab.plugins.makers.labellers import ByJudge, ByReward, Label, Labeller, Said
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.rows import Dropped
from trimtab.plugins.sources.split import order
from trimtab.plugins.sources.tables import open_table

TIES = "ties"


class LabelsConfig(Config):
    """Who labels, how many rows, and how sure a label is."""

    by: Literal["reward", "judge", "file"] = "reward"
    """The run's rewards (gold, say); the section ``judge``; or people, through a file."""

    budget: Annotated[int, Gt(0)] | None = None
    """Rows that are labelled, by an order that follows from ``train.seed``; null is all."""

    pairs: Literal["best_worst", "all"] = "best_worst"
    """Of a row with more than two responses: the best against the worst, or every pair."""

    noise: Literal["none", "bradley_terry"] = "none"
    """Of ``by: reward``. bradley_terry draws the winner with P(a) = sigmoid(r_a - r_b)."""

    soft: bool = False
    """Write P(chosen is better) as ``preference``: sigmoid(r_a - r_b), or what the judge says."""

    file: Annotated[str | None, LocalPath(awaited=True)] = None
    """Of ``by: file``: where the labels are; null is ``labels.jsonl`` in the stage's directory."""

    earlier: Annotated[list[str], LocalPath()] = []
    """Data sets of earlier labels, such as ``stages.NAME``: their rows come first, unchanged."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.noise != "none" and self.by != "reward":
            raise ValueError(f"noise is of by: reward, and labels come by: {self.by}")
        if self.noise != "none" and self.soft:
            raise ValueError("soft writes the probability down, noise draws from it: choose one")
        if self.soft and self.by == "file":
            raise ValueError("soft wants probabilities, and the labels of a file have none")
        if self.file is not None and self.by != "file":
            raise ValueError(f"file is of by: file, and labels come by: {self.by}")
        return self


class Labels(Maker[LabelsConfig]):
    """Labels pairs of responses, for a reward model or a preference objective to learn from.

    ``data.train`` has rows with ``responses``, such as ``candidates`` and ``selection`` make. A
    row of the data set is ``prompt``, ``chosen``, ``rejected`` (with ``soft`` also ``preference``)
    and ``annotator``, and the other columns of the row it is from.

    by: reward. P(a is better) = sigmoid(r_a - r_b), with r the weighted sum of the run's rewards
    (Bradley and Terry 1952). The better one is chosen, or it is drawn (``noise``).
    by: judge. The judge sees both orders; abstentions are counted.
    by: file. What is to be labelled is written to ``to_label.jsonl`` in the stage's directory:
    {"id", "prompt", "a", "b"}. Labels are {"id", "winner": "a", "b" or "tie"}, and "annotator" if
    there are several; each makes a row. While labels are missing the run stops and says how many.

    A response's place in ``best_worst`` is its reward; by judge and by file it is the sum of
    P(better) over its row's pairs, all of which are compared. Ties make no row, and are counted.
    """

    name = "labels"
    options = LabelsConfig

    @property
    def scores(self) -> bool:
        return self.config.by == "reward"

    @property
    def judges(self) -> bool:
        return self.config.by == "judge"

    def open(self, setting: Setting) -> None:
        self.read = AnsweredRows(setting)
        self._earlier = [row for name in self.config.earlier for row in _rows_of(name)]
        rows = self.read.rows
        ordered = order(len(rows), setting.seed, 0)[: self.config.budget]
        self._chosen = [rows[index] for index in ordered]
        self._by = self._labeller(setting)

    def steps(self, rows: int) -> int:
        return -(-len(self._chosen) // rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        chosen = self._chosen[step * rows : (step + 1) * rows]
        said = self._by.label(chosen, self.read.groups(chosen))
        made: list[dict[str, Any]] = []
        dropped = []
        counts: Counter[str] = Counter()
        for row, of_row in zip(chosen, said, strict=True):
            labels = self._wanted(of_row)
            ties = [label for label in labels if label.first == 0.5]
            found = [self._row(row, label) for label in labels if label.first != 0.5]
            made += found
            counts[TIES] += len(ties)
            counts += Counter(of_row.unlabelled)
            if not found:
                reason = "a tie" if ties else next(iter(of_row.unlabelled), "nothing to compare")
                dropped.append({"row": row.row, "reason": reason})
        return Made(
            rows=made,
            metrics={"labels": float(len(made)), "ties": float(counts[TIES])},
            notes=self._by.notes(),
            read=len(chosen),
            dropped=dropped,
            counts={"labels": len(made), **counts},
        )

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """After the earlier ones."""
        return [*self._earlier, *rows]

    def describe(self) -> Mapping[str, Any]:
        return {
            **account(self.read),
            "by": self.config.by,
            "budget": self.config.budget,
            "earlier": len(self._earlier),
            **self._by.describe(),
        }

    def _wanted(self, said: Said) -> list[Label]:
        """The labels of the best response against the worst, or all."""
        if self.config.pairs == "all" or not said.order:
            return list(said.labels)
        ordered = sorted(said.order, key=lambda place: -said.order[place])
        best, worst = ordered[0], ordered[-1]
        return [label for label in said.labels if {label.a, label.b} == {best, worst}]

    def _labeller(self, setting: Setting) -> Labeller:
        if self.config.by == "reward":
            return ByReward(setting, draw=self.config.noise == "bradley_terry")
        if self.config.by == "judge":
            return ByJudge(setting)
        return ByFile(setting, self.config.file, self._chosen, self.read.groups(self._chosen))

    def _row(self, row: Kept, label: Label) -> dict[str, Any]:
        both = [responses(row)[place] for place in (label.a, label.b)]
        chosen, rejected = both if label.first > 0.5 else both[::-1]
        soft = {"preference": max(label.first, 1 - label.first)} if self.config.soft else {}
        said = {"chosen": chosen, "rejected": rejected, **soft, "annotator": label.annotator}
        return row_of(row, said)


def _rows_of(name: str) -> list[Mapping[str, Any]]:
    """The rows of a data set as they are written. ``UserError`` where one cannot be read."""
    rows = []
    for row in open_table(name).train:
        if isinstance(row, Dropped):
            raise UserError(f"{name}: row {row.place or row.row}: {row.reason}")
        rows.append(row.columns)
    return rows


@hookimpl
def provide_sources() -> Sequence[type]:
    return [Labels]
