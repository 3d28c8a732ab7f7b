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
from trimtab.plugins.makers.answered import AnsweredRows, account, given, responses
from trimtab.plugins.makers.by_file import ByFile
from trimtab.plugins.makers.by_judge import ByComparison, ByRating
from trimtab.plugins.makers.columns import row_of
from trimtab.plugins.makers.labellers import ByReward, Label, Labeller, Said
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

    constitution: Annotated[str | None, LocalPath()] = None
    """Of ``by: judge``. A file of principles, or ``trimtab`` for the one that comes with it: each
    pair is judged by the ``compare`` of each, and P is their mean by weight."""

    principles: Annotated[int, Gt(0)] | None = None
    """Of the constitution, so many for each pair, drawn by weight; null asks all of them."""

    clamp: tuple[float, float] | None = None
    """Of ``by: judge`` with ``soft``. P is kept within these bounds, 1/2 in their middle: Bai et
    al. 2022 have [0.4, 0.6] where the judge reasons first."""

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
        for name in ("constitution", "principles", "clamp"):
            if getattr(self, name) is not None and self.by != "judge":
                raise ValueError(f"{name} is of by: judge, and labels come by: {self.by}")
        if self.principles is not None and self.constitution is None:
            raise ValueError("principles are those of a constitution: give constitution")
        if self.clamp is not None:
            low, high = self.clamp
            if not self.soft:
                raise ValueError("clamp bounds what soft writes down: give soft: true")
            if not 0 <= low < high <= 1 or abs(low + high - 1) > 1e-9:
                raise ValueError(
                    f"clamp [{low:g}, {high:g}] has not 1/2 in its middle, so that labels would "
                    "depend on which response comes first"
                )
        return self


class Labels(Maker[LabelsConfig]):
    """Labels pairs of responses, for a reward model or a preference objective to learn from.

    ``data.train`` has rows with ``responses``, such as ``candidates`` and ``selection`` make. A
    row of the data set is ``prompt``, ``chosen``, ``rejected`` (with ``soft`` also ``preference``)
    and ``annotator``, and the other columns of the row it is from.

    by: reward. P(a is better) = sigmoid(r_a - r_b), with r the weighted sum of the run's rewards
    (Bradley and Terry 1952). The better one is chosen, or it is drawn (``noise``).
    by: judge. The judge sees both orders of every pair; or, with ``judge.mode: score``, rates each
    response, and P(a is better) = sigmoid(rating of a - rating of b). Abstentions are counted. All
    that it said is in ``samples.jsonl``. ``data.json`` says what it cost, how far both orders
    agree, and how far it agrees with gold, ties 1/2: with what the rows say of their responses
    (``given``), and with each of the run's rewards, of which no label comes. With a constitution
    P(a is better) = sum of w_i P_i / sum of w_i over the principles i that the judge did not
    abstain from (Bai et al. 2022, arXiv:2212.08073, section 4; weights as votes, as Collective
    Constitutional AI has them). Then it is clamped.
    by: file. What is to be labelled is written to ``to_label.jsonl`` in the stage's directory:
    {"id", "prompt", "a", "b"}. Labels are {"id", "winner": "a", "b" or "tie"}, and "annotator" if
    there are several; each makes a row. While labels are missing the run stops and says how many.

    A response's place in ``best_worst`` is its reward or its rating; where pairs are compared it
    is the mean of P(better) over those of its row that were labelled. Ties make no row, and are
    counted.
    ``given_preference`` is P(chosen is better) by what the rows said of it before, where they did.
    """

    name = "labels"
    options = LabelsConfig

    @property
    def scores(self) -> bool:
        return self.config.by != "file"

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
        told = self._by.label(chosen, self.read.groups(chosen))
        made: list[dict[str, Any]] = []
        dropped = []
        counts: Counter[str] = Counter()
        for row, of_row in zip(chosen, told.said, strict=True):
            labels = self._wanted(of_row)
            ties = [label for label in labels if label.first == 0.5]
            found = [self._row(row, label) for label in labels if label.first != 0.5]
            made += found
            counts[TIES] += len(ties)
            counts += Counter(of_row.unlabelled)
            if not found:
                reason = "a tie" if ties else _without_label(of_row)
                dropped.append({"row": row.row, "reason": reason})
        return Made(
            rows=made,
            metrics={"labels": float(len(made)), "ties": float(counts[TIES]), **told.metrics},
            samples=told.samples,
            notes=told.notes,
            read=len(chosen),
            dropped=dropped,
            counts={"labels": len(made), **counts, **told.counts},
        )

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """After the earlier ones."""
        return [*self._earlier, *rows]

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return self._by.figures(counts)

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
            return self._judge(setting)
        return ByFile(setting, self.config.file, self._chosen, self.read.groups(self._chosen))

    def _judge(self, setting: Setting) -> Labeller:
        options = self.config
        if setting.judge is None or setting.judge.mode == "compare":
            return ByComparison(setting, options.clamp, options.constitution, options.principles)
        if options.constitution is not None:
            raise UserError(
                "the principles of a constitution compare two responses, and judge.mode is "
                f"{setting.judge.mode}: set it to compare, or leave constitution out"
            )
        return ByRating(setting, options.clamp)

    def _row(self, row: Kept, label: Label) -> dict[str, Any]:
        places = (label.a, label.b) if label.first > 0.5 else (label.b, label.a)
        chosen, rejected = (responses(row)[place] for place in places)
        before = given(row, *places)
        soft = {"preference": max(label.first, 1 - label.first)} if self.config.soft else {}
        was = {} if before is None else {"given_preference": before}
        said = {"chosen": chosen, "rejected": rejected, **soft, "annotator": label.annotator}
        return row_of(row, {**said, **was})


def _without_label(said: Said) -> str:
    reason = next(iter(said.unlabelled), "nothing to compare")
    return reason if said.why is None else f"{reason}: {said.why}"


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
