"""The source of online preferences: pairs of completions that the policy samples now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, fsum
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge

from trimtab.core.batches import Batch, Pairs, Sequences
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.sampling import as_sequences
from trimtab.core.source import Setting
from trimtab.plugins.sources.online import Answered, OnlineSource

Which = Literal["best_worst", "all"]


class RolloutPairsConfig(Config):
    """How completions of one prompt become pairs."""

    pairs: Which = "best_worst"
    """best_worst: a prompt's best completion by reward against its worst, one pair a prompt.
    all: every completion against every other, group x (group - 1) / 2 pairs a prompt."""

    soft: bool = False
    """The label is P(chosen is better) = sigmoid(the difference of the rewards), as Bradley and
    Terry have it; otherwise it is certain."""

    least_gap: Annotated[float, Ge(0)] = 0.0
    """Two completions whose rewards differ by no more are a tie, and no pair."""


@dataclass(frozen=True)
class Comparison:
    """Two completions of a group, by their places in it."""

    better: int
    worse: int
    gap: float
    """By how much the reward of the better one is larger."""


class RolloutPairs(OnlineSource[RolloutPairsConfig]):
    """Pairs of what the policy answers to the prompts of ``data.train`` now, labelled by reward.

    Guo et al. 2024, arXiv:2402.04792 (online DPO); best against worst as in Dong et al. 2024,
    arXiv:2405.07863. Any objective that learns from pairs learns from these as from a data set's.

    Each prompt is answered by ``rollout.group`` completions, 2 where the run file does not say.
    ``train.rows`` counts pairs: a step answers as many prompts as make no more of them, and its
    batch is smaller where there are ties. With ``soft``, objectives whose loss is lowest where
    sigmoid(beta x margin) equals the label, such as dpo, have their optimum at
    pi_ref exp(reward / beta) / Z, from whichever policy the pairs are sampled.

    Chosen and rejected completions are no fair sample of the policy, so of a step their log-ratios
    are logged, and the KL is measured on the answers of evaluations.
    """

    name = "rollout_pairs"
    options = RolloutPairsConfig

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return batch is Pairs

    def open(self, setting: Setting) -> None:
        group = setting.rollout.group or max(2, setting.group)
        if group < 2:
            raise UserError(
                f"rollout.group is {group}, and a pair is made of two completions of one prompt: "
                "set it to 2 or more"
            )
        self.unit = comb(group, 2) if self.config.pairs == "all" else 1
        if setting.rows < self.unit:
            raise UserError(
                f"train.rows is {setting.rows}, and all pairs of one prompt's {group} completions "
                f"(rollout.group) are {self.unit}: raise train.rows, or lower rollout.group"
            )
        super().open(replace(setting, group=group))
        self._gaps: list[float] = []
        self._ties = self._alone = self._asked = 0

    def collect(self, policy: Policy, rows: int) -> Batch:
        chosen: list[Completion] = []
        rejected: list[Completion] = []
        gaps: list[float] = []
        numbers: list[tuple[int, int, int]] = []
        for one in self.answered(max(1, rows // self.unit)):
            for pair in self._pairs(one):
                chosen.append(one.completions[pair.better])
                rejected.append(one.completions[pair.worse])
                gaps.append(pair.gap)
                numbers.append((one.row, one.first + pair.better, one.first + pair.worse))
        self._gaps += gaps
        number_N3 = torch.tensor(numbers, dtype=torch.long).view(-1, 3)
        gap_N = torch.tensor(gaps, dtype=torch.float32)
        temperature = self.setting.rollout.temperature
        return Pairs(
            as_sequences(chosen, temperature=temperature),
            as_sequences(rejected, temperature=temperature),
            gap_N.sigmoid() if self.config.soft else None,
            number_N3[:, 1:],
            row_N=number_N3[:, 0],
        )

    def metrics(self) -> Mapping[str, float]:
        """Those of all online sources, and of the pairs.

        ``pairs``: how many; ``gap``: by how much their rewards differ in the mean; ``ties``: share
        of the comparisons that were no pair, for their rewards differ too little; ``unpaired``:
        share of the prompts with fewer than two completions that could be scored.
        """
        found = dict(super().metrics())
        if self._asked:
            found["pairs"] = float(len(self._gaps))
            found["unpaired"] = self._alone / self._asked
        if self._gaps:
            found["gap"] = fsum(self._gaps) / len(self._gaps)
        if compared := len(self._gaps) + self._ties:
            found["ties"] = self._ties / compared
        self._gaps = []
        self._ties = self._alone = self._asked = 0
        return found

    def samples(self, batch: Batch | None) -> Sequence[Mapping[str, Any]]:
        """Those of the batch, pair after pair, and then what is in none.

        ``chosen`` and ``rejected`` say in how many pairs a completion is the one or the other;
        ``kl_sequence`` is there where engine and reference both told their log-probs.
        """
        assert batch is None or isinstance(batch, Pairs)
        if batch is None or batch.sample_N2 is None:
            return [_counted(one, Counter(), Counter()) for one in self.logged(())]
        chosen_N, rejected_N = batch.sample_N2.T.tolist()
        known = _logratios(batch.chosen, chosen_N) | _logratios(batch.rejected, rejected_N)
        chosen, rejected = Counter(chosen_N), Counter(rejected_N)
        return [
            {**_counted(one, chosen, rejected), **known.get(one["sample"], {})}
            for one in self.logged(batch.sample_N2.flatten().tolist())
        ]

    def steps_per_epoch(self, rows: int) -> int:
        return -(-len(self.corpus.train) // (rows // self.unit))

    def longest(self) -> Batch | None:
        """The longest prompt with two made-up completions of all tokens that they may have."""
        if not (made := self.made_up()):
            return None
        temperature = self.setting.rollout.temperature
        better, worse = (as_sequences([one], temperature=temperature) for one in made[:2])
        return Pairs(better, worse)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "pairs": self.config.model_dump()}

    def _pairs(self, one: Answered) -> list[Comparison]:
        """Of one prompt; what is no pair is counted."""
        compared = comparisons([score.value for score in one.scores], self.config.pairs)
        kept = [pair for pair in compared if pair.gap > self.config.least_gap]
        self._asked += 1
        self._alone += not compared
        self._ties += len(compared) - len(kept)
        return kept


def comparisons(rewards: Sequence[float | None], which: Which) -> list[Comparison]:
    """Which completions of a group are compared, those without a reward with none.

    >>> [(pair.better, pair.worse, pair.gap) for pair in comparisons([1.0, None, 4.0, 2.0], "all")]
    [(2, 3, 2.0), (2, 0, 3.0), (3, 0, 1.0)]
    """
    known = {place: reward for place, reward in enumerate(rewards) if reward is not None}
    ranked = sorted(known, key=lambda place: -known[place])
    pairs = list(combinations(ranked, 2))
    if which == "best_worst" and pairs:
        pairs = [(ranked[0], ranked[-1])]
    return [Comparison(one, other, known[one] - known[other]) for one, other in pairs]


def _counted(
    record: Mapping[str, Any], chosen: Counter[int], rejected: Counter[int]
) -> dict[str, Any]:
    number = record["sample"]
    return {**record, "chosen": chosen[number], "rejected": rejected[number]}


def _logratios(sequences: Sequences, numbers: Sequence[int]) -> dict[int, dict[str, float]]:
    """By the number of the sample: log pi/pi_ref of the policy that sampled it, in nats."""
    sampler_NT, reference_NT = sequences.maybe_behaviour_NT, sequences.maybe_reference_NT
    if sampler_NT is None:
        sampler_NT = sequences.maybe_sampled_NT
    if sampler_NT is None or reference_NT is None:
        return {}
    logratio_NT = (sampler_NT - reference_NT).masked_fill(~sequences.mask_NT, 0.0)
    found = zip(numbers, logratio_NT.sum(-1).tolist(), strict=True)
    return {number: {"kl_sequence": nats} for number, nats in found}


@hookimpl
def provide_sources() -> Sequence[type[RolloutPairs]]:
    return [RolloutPairs]
