"""The source of online objectives: prompts of a data set, answered by the policy and scored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trimtab.core.batches import Batch, Rollouts
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.rewards import Fault, groups_of
from trimtab.core.sampling import as_sequences, uniforms
from trimtab.core.source import Prompt, Setting, Source
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import PROMPTS
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.sampled import Account
from trimtab.plugins.sources.split import fingerprint, order


class RolloutsConfig(Config):
    """No options of its own: the sections ``data``, ``rollout`` and ``reward`` say it all."""


class RolloutSource(Source[RolloutsConfig]):
    """Prompts in a new order each epoch, each answered by a group of completions, and scored.

    Where an epoch ends within a batch, the next one's prompts fill it up. A completion is drawn by
    a random stream of its own, which follows from the seed, the number of the draw and the place
    in it. What no reward could score is left out of the batch, counted and logged. With several
    processes each samples whole groups, and all get all of them.
    """

    name = "rollouts"
    options = RolloutsConfig

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return batch is Rollouts

    def open(self, setting: Setting) -> None:
        if setting.rewards is None:
            raise UserError(
                "this objective learns from rewards, and the run file names none: give "
                "reward: [{name: ...}] (trimtab plugins lists them)"
            )
        if setting.rows % setting.group:
            raise UserError(
                f"train.rows is {setting.rows}, and cannot be made of whole groups of "
                f"{setting.group} completions (rollout.group): choose a multiple"
            )
        assert setting.engine is not None
        self.setting, self.unit = setting, setting.group
        self.engine, self.rewards = setting.engine, setting.rewards
        self.corpus = read_corpus(setting.data, PROMPTS, setting.tokenizer)
        self.corpus.check()
        self._fingerprint = fingerprint(self.corpus.train)
        self._go_to(epoch=0, index=0)
        self._draws = self._groups = self._samples = 0
        self._account = Account()
        self._notes: list[Fault] = []
        self._told: set[tuple[str, str]] = set()

    def collect(self, policy: Policy, rows: int) -> Batch:
        setting, account = self.setting, self._account
        prompts = self._next(-(-rows // setting.group))
        began = time.monotonic()
        sampled = self._sampled(prompts)
        groups = groups_of(setting.tokenizer, prompts, sampled)
        account.seconds_rollout += time.monotonic() - began
        began = time.monotonic()
        scores = self.rewards.score(groups, setting.processes, learn=True)
        account.seconds_score += time.monotonic() - began
        kept: list[tuple[Completion, float, int, int, int]] = []
        for prompt, group, found in zip(prompts, groups, scores, strict=True):
            for index, score in enumerate(found):
                account.add(self._samples, prompt.row, group, index, score)
                if score.value is not None:
                    completion = group.sampled[index]
                    kept.append((completion, score.value, prompt.row, self._groups, self._samples))
                self._samples += 1
            self._groups += 1
        made, *columns = zip(*kept, strict=True) if kept else ((), (), (), (), ())
        reward, *numbers = columns
        row_N, group_N, sample_N = (torch.tensor(each, dtype=torch.long) for each in numbers)
        return Rollouts(
            as_sequences(made, temperature=setting.rollout.temperature),
            torch.tensor(reward, dtype=torch.float32),
            group_N,
            torch.tensor([completion.truncated for completion in made], dtype=torch.bool),
            sample_N,
            setting.rollout.max_new_tokens,
            row_N=row_N,
        )

    def held_out(self) -> Batch | None:
        return None

    def prompts(self) -> Sequence[Prompt]:
        return [_prompt(row) for row in self.corpus.held_out]

    def metrics(self) -> Mapping[str, float]:
        """See ``Account.metrics``."""
        self._account.faults = self.rewards.drain_faults()
        self._notes += [fault for fault in self._account.faults if fault[:2] not in self._told]
        self._told |= {fault[:2] for fault in self._notes}
        found, left = self._account.metrics(), self._account.records
        self._account = Account(records=left)
        return found

    def notes(self) -> Sequence[str]:
        """Each reason why a reward could not score, when it first occurs."""
        found, self._notes = self._notes, []
        return [str(fault) for fault in found]

    def samples(self, batch: Batch | None) -> Sequence[Mapping[str, Any]]:
        """Those of the batch, and then what was sampled and is not in it, with the reason."""
        assert batch is None or isinstance(batch, Rollouts)
        if batch is None or batch.sample_N is None:
            return self._account.taken(())
        return self._account.taken(batch.sample_N.tolist())

    def steps_per_epoch(self, rows: int) -> int:
        return -(-len(self.corpus.train) // (rows // self.setting.group))

    def longest(self) -> Batch | None:
        """The longest prompt with made-up completions of all tokens that they may have."""
        rows = self.corpus.train
        if not rows:
            return None
        prompt = max((tuple(row.tokens.prompt) for row in rows), key=len)
        length, vocabulary = self.setting.rollout.max_new_tokens, len(self.setting.tokenizer)
        made = [
            Completion(
                prompt,
                tuple(
                    (7919 * (place * self.setting.group + index)) % vocabulary
                    for place in range(1, length + 1)
                ),
                truncated=True,
            )
            for index in range(self.setting.group)
        ]
        one_N = torch.zeros(len(made), dtype=torch.long)
        responses = as_sequences(made, temperature=self.setting.rollout.temperature)
        return Rollouts(responses, one_N.float(), one_N, limit=length)

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
            chosen.append(_prompt(self.corpus.train[self._order[self._index]]))
            self._index += 1
        return chosen

    def _sampled(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """A group of completions for each prompt; this process samples its share of the groups."""
        setting = self.setting
        size, rollout = setting.group, setting.rollout
        own = setting.processes.share(len(prompts)).tolist()
        made: dict[int, list[Completion]] = {}
        self._draws += 1
        if own:
            places = [g * size + c for g in own for c in range(size)]
            drawn = uniforms(setting.seed, self._draws, places, rollout.max_new_tokens)
            asked = [prompts[place // size].ids for place in places]
            found = self.engine.sample(asked, drawn, temperature=rollout.temperature)
            made = {g: list(found[i * size : (i + 1) * size]) for i, g in enumerate(own)}
        everywhere = {g: c for part in setting.processes.gather(made) for g, c in part.items()}
        return [everywhere[g] for g in range(len(prompts))]


def _prompt(row: Kept) -> Prompt:
    return Prompt(row.row, tuple(row.tokens.prompt), row.asked, row.columns or {})


@hookimpl
def provide_sources() -> Sequence[type[RolloutSource]]:
    return [RolloutSource]
