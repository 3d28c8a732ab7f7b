"""What all online sources share: prompts of a data set, answered by the policy and scored."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypeVar

from trimtab.core.batches import Batch
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.options import Config
from trimtab.core.reward import Score
from trimtab.core.rewards import Fault, groups_of
from trimtab.core.source import Prompt, Setting, Source
from trimtab.plugins.sources.answering import prompt_of, sampled
from trimtab.plugins.sources.asked import asked_apart
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import PROMPTS
from trimtab.plugins.sources.sampled import Account
from trimtab.plugins.sources.split import fingerprint, order

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Answered:
    """A prompt, the completions that the policy gave to it, and what the rewards say of them."""

    number: int
    """Of the group; none is given twice."""

    row: int
    completions: Sequence[Completion]
    scores: Sequence[Score]
    first: int
    """The number of the first completion; those of the others follow it."""


class OnlineSource(Source[C]):
    """Prompts in a new order each epoch, each answered by a group of completions, and scored.

    Where an epoch ends within a batch, the next one's prompts fill it up. A completion is drawn by
    a random stream of its own, which follows from the seed, the number of the draw and the place
    in it. With several processes each samples whole groups, and all get all of them.
    """

    def open(self, setting: Setting) -> None:
        if setting.rewards is None:
            raise UserError(
                "this run learns from rewards, and the run file names none: give "
                "reward: [{name: ...}] (trimtab plugins lists them)"
            )
        assert setting.engine is not None
        self.setting, self.engine, self.rewards = setting, setting.engine, setting.rewards
        self.corpus = read_corpus(setting.data, PROMPTS, setting.tokenizer)
        self.corpus.check()
        held_out = [prompt_of(row) for row in self.corpus.held_out]
        self._eval_prompts = asked_apart(setting) or held_out
        self._fingerprint = fingerprint(self.corpus.train)
        self._go_to(epoch=0, index=0)
        self._draws = self._groups = self._samples = 0
        self._account = Account()
        self._notes: list[Fault] = []
        self._told: set[tuple[str, str]] = set()

    def answered(self, count: int) -> list[Answered]:
        """The next prompts with their groups, put down in the account."""
        setting, account = self.setting, self._account
        prompts = self._next(count)
        began = time.monotonic()
        sampled = self._sampled(prompts)
        groups = groups_of(setting.tokenizer, prompts, sampled)
        account.seconds_rollout += time.monotonic() - began
        began = time.monotonic()
        scores = self.rewards.score(groups, setting.processes, learn=True)
        account.seconds_score += time.monotonic() - began
        made = []
        for prompt, group, found in zip(prompts, groups, scores, strict=True):
            made.append(Answered(self._groups, prompt.row, group.sampled, found, self._samples))
            for index, score in enumerate(found):
                account.add(self._samples + index, prompt.row, group, index, score)
            self._samples += len(found)
            self._groups += 1
        return made

    def held_out(self) -> Batch | None:
        return None

    def prompts(self) -> Sequence[Prompt]:
        return self._eval_prompts

    def metrics(self) -> Mapping[str, float]:
        """See ``Account.metrics``."""
        self._account.faults = self.rewards.drain_faults()
        self._notes += [fault for fault in self._account.faults if fault[:2] not in self._told]
        self._told |= {fault[:2] for fault in self._notes}
        found = {**self._account.metrics(), **self.rewards.drain_figures()}
        left = self._account.records
        self._account = Account(records=left)
        return found

    def notes(self) -> Sequence[str]:
        """Each reason why a reward could not score, when it first occurs."""
        found, self._notes = self._notes, []
        return [str(fault) for fault in found]

    def logged(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """The records of these samples, and then of what was sampled and is not among them."""
        return self._account.taken(numbers)

    def made_up(self) -> list[Completion]:
        """A group for the longest prompt, of all tokens that completions may have; or nothing."""
        rows = self.corpus.train
        if not rows:
            return []
        prompt = max((tuple(row.tokens.prompt) for row in rows), key=len)
        group, vocabulary = self.setting.group, len(self.setting.tokenizer)
        places = range(1, self.setting.rollout.max_new_tokens + 1)
        return [
            Completion(
                prompt,
                tuple((7919 * (place * group + index)) % vocabulary for place in places),
                truncated=True,
            )
            for index in range(group)
        ]

    def describe(self) -> Mapping[str, Any]:
        return {
            **self.corpus.account(),
            "fingerprint": self._fingerprint,
            "group": self.setting.group,
            "rewards": self.rewards.describe(),
        }

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self._epoch,
            "index": self._index,
            "draws": self._draws,
            "groups": self._groups,
            "samples": self._samples,
            "rewards": self.rewards.state(),
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                "the prompts are not what this run was trained on so far: they have the "
                f"fingerprint {self._fingerprint}, not {state['fingerprint']}"
            )
        self._go_to(state["epoch"], state["index"])
        self._draws, self._groups = state["draws"], state["groups"]
        self._samples = state["samples"]
        self.rewards.restore(state["rewards"])
        self._account = Account()

    def _go_to(self, epoch: int, index: int) -> None:
        self._epoch, self._index = epoch, index
        self._order = order(len(self.corpus.train), self.setting.seed, epoch)

    def _next(self, count: int) -> list[Prompt]:
        chosen: list[Prompt] = []
        while len(chosen) < count:
            if self._index == len(self._order):
                self._go_to(self._epoch + 1, 0)
            chosen.append(prompt_of(self.corpus.train[self._order[self._index]]))
            self._index += 1
        return chosen

    def _sampled(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        self._draws += 1
        setting = self.setting
        return sampled(
            setting,
            prompts,
            seed=setting.seed,
            draw=self._draws,
            stream=lambda group, place: group * setting.group + place,
        )
