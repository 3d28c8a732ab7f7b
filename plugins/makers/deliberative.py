"""The source ``deliberative``: answers after reasoning over a specification, scored against it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.judge import Rating, Verdict
from trimtab.core.maker import Made, Maker
from trimtab.core.options import LocalPath
from trimtab.core.policy import Policy
from trimtab.core.source import Setting
from trimtab.plugins.judges.account import counts_of, figures_of
from trimtab.plugins.makers.asking import Answer, Answered, Asking, AskingConfig, check_group
from trimtab.plugins.makers.columns import row_of, told
from trimtab.plugins.makers.deliberating import ANSWER, THINK, Deliberated, Deliberating
from trimtab.plugins.makers.judged import JUDGE, judge_figures, put_under, shared, under
from trimtab.plugins.sources.answering import context_of
from trimtab.plugins.sources.sampled import mean

NONE = "no completion could be used"
FEW = "fewer than two completions could be used"
UNRATED = "the judge rated none of its answers"
FEW_RATED = "the judge rated fewer than two of its answers"
TOO_LOW = "the best score is below the least"
THOUGHTS = "thoughts"
CUT = "thoughts cut at reason_tokens"
ABSTAINED = "answers that the judge did not rate"

MOST_BYTES = 1_000_000
"""Of a specification."""


class DeliberativeConfig(AskingConfig):
    """The specification, how long the policy may think, and what is kept."""

    specification: Annotated[str, LocalPath()]
    """A text file that says how answers are to be."""

    reason_tokens: Annotated[int, Gt(0)] = 128
    """Tokens of the reasoning, at most."""

    form: Literal["best", "ranked"] = "best"
    """best: a row is the prompt with its best answer. ranked: with all answers and scores."""

    least: float | None = None
    """A prompt whose best answer scores below it makes no row."""


class Deliberative(Maker[DeliberativeConfig]):
    """Answers that the policy gives when it has a specification to reason over.

        z ~ pi(. | x, s),   y ~ pi(. | x, s, z),   score(y) = the judge's rating of y against s

    with the prompt x, the specification s, the reasoning z, and ``rollout.group`` answers y (4 by
    default). Reasoning and specification are dropped: a row is ``prompt``, ``completion`` (the
    answer with the highest score), ``score``, ``mean`` (over the rated answers) and ``of`` (how
    many those were), and the prompt row's other columns. ``form: ranked`` writes ``responses`` and
    ``scores``, for what learns from rankings.

    After Guan et al. 2024, arXiv:2412.16339 (deliberative alignment). They keep the reasoning, and
    train the model to recall the specification and reason over it before it answers; what is
    trained here answers at once (context distillation: Askell et al. 2021, arXiv:2112.00861).

    ``samples.jsonl`` has every answer with its reasoning, its score and what the judge said.
    Prompts of plain text are asked as the user's turn.
    """

    name = "deliberative"
    options = DeliberativeConfig
    samples = True
    renewed = True
    group = 4

    @property
    def judges(self) -> bool:
        return True

    def open(self, setting: Setting) -> None:
        if setting.judge is None:
            raise UserError(
                "the source 'deliberative' has its answers scored by a judge, and the run file "
                "names none: give judge: {name: local}, or another (trimtab plugins lists them)"
            )
        ranked = self.config.form == "ranked"
        if ranked:
            check_group(setting, self.name)
        self.setting, self.judge = setting, setting.judge
        self.specification = _read(self.config.specification)
        self.asking = Asking(setting, self.config, distinct=ranked)
        self._thinking = Deliberating(setting, self.specification, self.config.reason_tokens)

    def steps(self, rows: int) -> int:
        return self.asking.steps(rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        found = self._thinking.of(self.asking.pool.of_step(step, rows), context_of(policy))
        asked = [one for one in found if one.why_not is None]
        answered, made = self.asking.take(
            [one.row for one in asked],
            [one.number for one in asked],
            [one.answers for one in asked],
        )
        verdicts, cost = self._verdicts(answered)
        counts = counts_of(verdict for of_row in verdicts for verdict in of_row.values()) + cost
        dropped = [{"row": one.row.row, "reason": one.why_not} for one in found if one.why_not]
        made_rows = []
        for one, of_row in zip(answered, verdicts, strict=True):
            row = self._row(one, of_row)
            if isinstance(row, str):
                dropped.append({"row": one.row.row, "reason": row})
            else:
                made_rows.append(row)
        return replace(
            made,
            rows=made_rows,
            metrics={**made.metrics, **_metrics(verdicts, counts)},
            samples=_samples(made.samples, asked, verdicts),
            read=len(found),
            dropped=dropped,
            counts={**made.counts, **_counts(found, verdicts), **put_under(JUDGE, counts)},
        )

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {"judge": judge_figures(under(JUDGE, counts))}

    def describe(self) -> Mapping[str, Any]:
        requests = hashlib.sha256(f"{THINK}{ANSWER}".encode()).hexdigest()
        return {
            **self.asking.describe(),
            "specification_sha256": hashlib.sha256(self.specification.encode()).hexdigest(),
            "requests_sha256": requests,
            "judged_by": {**self.judge.describe(), "mode": "score"},
        }

    def _verdicts(
        self, answered: Sequence[Answered]
    ) -> tuple[list[dict[int, Verdict]], Counter[str]]:
        """Of each prompt's answers, by their places; and the cost, over all processes."""
        asked = [(one, answer) for one in answered for answer in one.answers]
        ratings = [self._rating(*each) for each in asked]
        verdicts, cost = shared(self.judge, self.judge.score, ratings, self.setting.processes)
        each = iter(verdicts)
        return [{answer.place: next(each) for answer in one.answers} for one in answered], cost

    def _rating(self, one: Answered, answer: Answer) -> Rating:
        assert one.row.asked is not None
        return Rating(told(one.row.asked), told(answer.written), self.specification)

    def _row(self, one: Answered, verdicts: Mapping[int, Verdict]) -> dict[str, Any] | str:
        """A row; or why there is none."""
        ranked = self.config.form == "ranked"
        if len(one.answers) < 1 + ranked:
            return FEW if ranked else NONE
        rated = [
            (value, answer.written)
            for answer in one.answers
            if (value := verdicts[answer.place].value) is not None
        ]
        if len(rated) < 1 + ranked:
            return FEW_RATED if ranked else UNRATED
        scores = [value for value, _ in rated]
        best = max(scores)
        if self.config.least is not None and best < self.config.least:
            return TOO_LOW
        if ranked:
            made: dict[str, Any] = {"responses": [text for _, text in rated], "scores": scores}
        else:
            made = {
                "completion": rated[scores.index(best)][1],
                "score": best,
                "mean": mean(scores),
                "of": len(scores),
            }
        return row_of(one.row, made)


def _samples(
    samples: Sequence[Mapping[str, Any]],
    asked: Sequence[Deliberated],
    verdicts: Sequence[Mapping[int, Verdict]],
) -> list[dict[str, Any]]:
    """The samples with their reasoning, and with what was said of those that were rated."""
    places = [
        (one, of_row, place)
        for one, of_row in zip(asked, verdicts, strict=True)
        for place in range(len(one.answers))
    ]
    found = []
    for sample, (one, of_row, place) in zip(samples, places, strict=True):
        judged: dict[str, Any] = {}
        if (verdict := of_row.get(place)) is not None:
            said = {**sample.get("said", {}), JUDGE[:-1]: {"said": list(verdict.said)}}
            judged = {"score": verdict.value, "said": said}
            judged |= {"why": verdict.why} if verdict.why else {}
        found.append({**sample, "reasoning": one.thoughts[place], **judged})
    return found


def _metrics(
    verdicts: Sequence[Mapping[int, Verdict]], counts: Mapping[str, int]
) -> dict[str, float]:
    """Of this step: the mean score of what was rated, and of the best of each prompt."""
    values = [
        [each.value for each in of_row.values() if each.value is not None] for of_row in verdicts
    ]
    rated = [of_row for of_row in values if of_row]
    found = {f"{JUDGE}{name}": value for name, value in figures_of(counts).items()}
    if rated:
        scores = [value for of_row in rated for value in of_row]
        found["score"] = mean(scores)
        found["score_of_best"] = mean([max(of_row) for of_row in rated])
    return found


def _counts(
    found: Sequence[Deliberated], verdicts: Sequence[Mapping[int, Verdict]]
) -> dict[str, int]:
    abstained = sum(each.value is None for of_row in verdicts for each in of_row.values())
    counts = {CUT: sum(one.cut for one in found), ABSTAINED: abstained}
    thoughts = sum(len(one.thoughts) for one in found)
    return {THOUGHTS: thoughts, **{name: count for name, count in counts.items() if count}}


def _read(named: str) -> str:
    """The specification. ``UserError`` where it cannot be read, or says nothing."""
    path = Path(named).expanduser()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is larger than {MOST_BYTES} bytes: is it a specification?")
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a specification: {error}") from error
    if not text:
        raise UserError(f"{path} is empty: it is to say how answers are to be")
    return text


@hookimpl
def provide_sources() -> Sequence[type]:
    return [Deliberative]
