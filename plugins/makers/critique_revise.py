"""The source ``critique_revise``: answers that a model criticized and revised by principles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from annotated_types import Gt
from pydantic import model_validator

from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.maker import Made, Maker
from trimtab.core.options import LocalPath
from trimtab.core.policy import Policy
from trimtab.core.reward import Score
from trimtab.core.source import Setting
from trimtab.plugins.constitutions import load_constitution
from trimtab.plugins.makers.asking import AskingConfig
from trimtab.plugins.makers.chains import Chain
from trimtab.plugins.makers.columns import answer, row_of
from trimtab.plugins.makers.effects import effects
from trimtab.plugins.makers.judged import JUDGE, judge_figures, put_under, under
from trimtab.plugins.makers.pool import Pool, Portion
from trimtab.plugins.makers.revising import TRUNCATED, Reviser, Way
from trimtab.plugins.sources.answering import context_of
from trimtab.plugins.sources.sampled import mean, means, record, rewards_of

UNREVISED = "no revision could be used"
UNCHANGED = "the final answer is the draft"


class CritiqueReviseConfig(AskingConfig):
    """By which principles answers are revised, how often, and by whom."""

    constitution: Annotated[str | None, LocalPath()] = None
    """A file of principles; null is the one that comes with trimtab."""

    rounds: Annotated[int, Gt(0)] = 1
    """Critiques and revisions of each answer, one after the other; each has a principle of its
    own, drawn by weight."""

    critique: bool = True
    """false asks for the revision at once (section 3.5 of the paper)."""

    by: Literal["policy", "judge"] = "policy"
    """Who criticizes. Drafts and revisions are always the policy's."""

    critique_tokens: Annotated[int, Gt(0)] | None = None
    """Tokens of the policy's critiques, at most; null is ``rollout.max_new_tokens``."""

    form: Literal["revisions", "pairs"] = "revisions"
    """revisions: the final answer, to imitate. pairs: the final answer is chosen and the draft is
    rejected."""

    truncated: Literal["keep", "drop"] = "keep"
    """What becomes of drafts cut at ``rollout.max_new_tokens``: they are revised, or their prompt
    is dropped. A truncated revision never takes the place of the answer before it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.by == "judge" and not self.critique:
            raise ValueError("the judge writes critiques, and critique is false: give by: policy")
        if self.critique_tokens is not None and not (self.critique and self.by == "policy"):
            raise ValueError("critique_tokens is of critiques that the policy writes")
        return self


class CritiqueRevise(Maker[CritiqueReviseConfig]):
    """Critique and revision by a constitution (Bai et al. 2022, arXiv:2212.08073, section 3).

        y_0 ~ pi(. | x);  c_k ~ pi(. | x, y_{k-1}, critique request);
        y_k ~ pi(. | x, y_{k-1}, critique request, c_k, revision request),  k = 1 .. rounds

    The principle of a round is drawn by weight; none comes again before all have come. A row is
    ``prompt`` and ``completion``, y_rounds, or ``prompt``, ``chosen`` (y_rounds) and ``rejected``
    (y_0), with the prompt row's other columns; critiques are in no row. One answer a prompt,
    whatever ``rollout.group``; ``train.epochs`` above 1 drafts anew.

    A revision that is empty, truncated or cannot be read again leaves the answer as it was, and is
    counted. All that was written is in ``constitution.jsonl``. With rewards in the run file every
    answer is scored, those of one prompt together. ``data.json`` says of each principle how often
    it was drawn and what changed.
    """

    name = "critique_revise"
    options = CritiqueReviseConfig
    samples = True
    renewed = True

    @property
    def judges(self) -> bool:
        return self.config.by == "judge"

    def open(self, setting: Setting) -> None:
        config = self.config
        if self.judges and setting.judge is None:
            raise UserError("critiques by judge ask one: give judge: {name: ...} in the run file")
        self.setting, self.constitution = setting, load_constitution(config.constitution)
        self.pool = Pool(setting, config)
        way = Way(
            self.constitution,
            config.rounds,
            config.critique,
            config.critique_tokens or setting.rollout.max_new_tokens,
            config.truncated,
            setting.judge if self.judges else None,
        )
        self.reviser = Reviser(setting, way)

    def steps(self, rows: int) -> int:
        return self.pool.steps(rows)

    def make(self, policy: Policy | None, step: int, rows: int) -> Made:
        portion = self.pool.of_step(step, rows)
        found = self.reviser.revised(portion, context_of(policy))
        usable = [chain for chain in found.chains if chain.lost is None]
        notes, figures = self._score(usable)
        for chain in usable:
            chain.lost = self._why_no_row(chain)
        counting = self.setting.rewards is not None and self.setting.rewards.counting
        judged = put_under(JUDGE, +found.judged)
        costs = {name: float(number) for name, number in judged.items()}
        return Made(
            rows=[self._row(chain) for chain in usable if chain.lost is None],
            metrics={**_metrics(found.chains), **figures, **costs, "tokens": float(found.tokens)},
            samples=list(self._samples(portion, found.chains)),
            chains=[chain.as_json(counting) for chain in found.chains],
            notes=[*notes, *_left_out(found.chains)],
            read=len(found.chains),
            dropped=[
                {"row": chain.row.row, "reason": chain.lost}
                for chain in found.chains
                if chain.lost is not None
            ],
            counts={**+(found.counts + _counts(found.chains)), **judged},
        )

    def figures(self, counts: Mapping[str, int]) -> Mapping[str, Any]:
        return {"judge": judge_figures(under(JUDGE, counts))} if self.judges else {}

    def effects(self, chains: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
        return effects(chains)

    def describe(self) -> Mapping[str, Any]:
        judge, rewards = self.setting.judge, self.setting.rewards
        return {
            **self.pool.describe(),
            "constitution": self.constitution.describe(),
            "critiques": self.config.by if self.config.critique else None,
            **({"judged_by": judge.describe()} if judge and self.judges else {}),
            **({"rewards": rewards.describe()} if rewards else {}),
        }

    def _score(self, chains: Sequence[Chain]) -> tuple[list[str], dict[str, float]]:
        """Score every answer; notes of what went wrong, and figures of the rewards."""
        rewards = self.setting.rewards
        if rewards is None:
            return [], {}
        groups = [chain.group(self._prompt(chain)) for chain in chains]
        scores = rewards.score(groups, self.setting.processes, learn=True)
        for chain, of_chain in zip(chains, scores, strict=True):
            chain.scored(of_chain)
        return [str(fault) for fault in rewards.drain_faults()], rewards.drain_figures()

    def _why_no_row(self, chain: Chain) -> str | None:
        """A pair is of two answers."""
        if self.config.form == "revisions" or chain.changed:
            return None
        return UNCHANGED if len(chain.answers) > 1 else UNREVISED

    def _row(self, chain: Chain) -> dict[str, Any]:
        final = answer(chain.row.asked, chain.final)
        if self.config.form == "revisions":
            return row_of(chain.row, {"completion": final})
        draft = answer(chain.row.asked, chain.answers[0])
        return row_of(chain.row, {"chosen": final, "rejected": draft})

    def _samples(self, portion: Portion, chains: Sequence[Chain]) -> Iterable[Mapping[str, Any]]:
        """Every answer, numbered as if each chain had one for every round."""
        unasked = ("reward", "parts") if self.setting.rewards is None else ()
        for n, chain in enumerate(chains):
            first = (portion.before + n) * (self.config.rounds + 1)
            group = chain.group(self._prompt(chain))
            scores = chain.scores or [Score(None)] * len(chain.answers)
            for index, score in enumerate(scores):
                said = record(chain.row.row, group, index, score)
                known = {name: value for name, value in said.items() if name not in unasked}
                which = f"revision {index}" if index else "draft"
                yield {**known, "sample": first + index, "answer": which}

    def _prompt(self, chain: Chain) -> str:
        decode = self.setting.tokenizer.decode
        return str(decode(chain.draft.prompt, skip_special_tokens=True))


def _counts(chains: Sequence[Chain]) -> Counter[str]:
    """Rounds, and what became of the revisions; answers that are the draft in the end."""
    rounds = [each for chain in chains for each in chain.rounds]
    counts = Counter(
        f"left as it was: {each.why}" if each.why else "revisions kept" for each in rounds
    )
    used = [chain for chain in chains if chain.lost is None]
    counts["rounds"] = len(rounds)
    counts["unchanged"] = sum(not chain.changed for chain in used)
    counts["truncated drafts"] = sum(chain.draft.truncated for chain in chains)
    return counts


def _left_out(chains: Sequence[Chain]) -> Iterator[str]:
    """Where most revisions of a step cannot be used, so that the drafts are what is learned."""
    whys = [each.why for chain in chains for each in chain.rounds]
    left = Counter(why for why in whys if why is not None)
    if 2 * left.total() > len(whys):
        why, count = left.most_common(1)[0]
        more = ": raise rollout.max_new_tokens" if why == TRUNCATED else ""
        yield (
            f"{left.total()} of {len(whys)} revisions left the answer as it was, {count} of them "
            f"for this: {why}{more}"
        )


def _metrics(chains: Sequence[Chain]) -> dict[str, float]:
    """The step's figures. ``length`` is of the final answers, in tokens; ``reward`` is theirs, and
    ``reward_draft`` that of the drafts; of what could be scored only."""
    rounds = [each for chain in chains for each in chain.rounds]
    found = {
        "length": mean([len(chain.sampled[-1].tokens) for chain in chains]),
        "changed": mean([chain.changed for chain in chains]),
        "truncated": mean([chain.draft.truncated for chain in chains]),
    }
    if rounds:
        found["kept"] = mean([each.why is None for each in rounds])
    scored = [chain.scores for chain in chains if chain.scores]
    drafts = means({"reward_draft": [scores[0].value for scores in scored]})
    return {**found, **drafts, **rewards_of([scores[-1] for scores in scored])}


@hookimpl
def provide_sources() -> Sequence[type]:
    return [CritiqueRevise]
