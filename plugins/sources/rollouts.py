"""The source of online objectives: prompts of a data set, answered by the policy and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trimtab.core.batches import Batch, Rollouts
from trimtab.core.engine import Completion
from trimtab.core.errors import UserError
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.reward import Score
from trimtab.core.rewards import groups_of
from trimtab.core.sampling import as_sequences, uniforms
from trimtab.core.source import Prompt, Setting, Source
from trimtab.plugins.sources.corpus import read_corpus
from trimtab.plugins.sources.kinds import PROMPTS
from trimtab.plugins.sources.load import Kept
from trimtab.plugins.sources.split import fingerprint, order


class RolloutsConfig(Config):
    """No options of its own: the sections ``data``, ``rollout`` and ``reward`` say it all."""


class RolloutSource(Source[RolloutsConfig]):
    """Prompts in a new order each epoch, each answered by a group of completions."""

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
        self.setting = setting
        self.engine, self.rewards = setting.engine, setting.rewards
        self.corpus = read_corpus(setting.data, PROMPTS, setting.tokenizer)
        self.corpus.check()
        self._fingerprint = fingerprint(self.corpus.train)
        self._go_to(epoch=0, index=0)
        self._draws = self._groups = self._samples = 0
        self._metrics: dict[str, float] = {}
        self._records: dict[int, dict[str, Any]] = {}

    def collect(self, policy: Policy, rows: int) -> Batch:
        setting = self.setting
        prompts = [_prompt(row) for row in self._next(-(-rows // setting.group))]
        asked = [prompt.ids for prompt in prompts for _ in range(setting.group)]
        drawn = uniforms(
            setting.seed, self._draws, range(len(asked)), setting.rollout.max_new_tokens
        )
        made = self.engine.sample(asked, drawn, temperature=setting.rollout.temperature)
        self._draws += 1
        groups = [made[g * setting.group :][: setting.group] for g in range(len(prompts))]
        scores = self.rewards.score(
            groups_of(setting.tokenizer, prompts, groups), setting.processes, learn=True
        )
        return self._batch(prompts, groups, scores)

    def held_out(self) -> Batch | None:
        return None

    def prompts(self) -> Sequence[Prompt]:
        return [_prompt(row) for row in self.corpus.held_out]

    def metrics(self) -> Mapping[str, float]:
        found, self._metrics = self._metrics, {}
        return found

    def samples(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        assert isinstance(batch, Rollouts) and batch.sample_N is not None
        return [self._records[number] for number in batch.sample_N.tolist()]

    def describe(self) -> Mapping[str, Any]:
        train = self.corpus.reports[0].as_json()
        return {
            **train,
            "warnings": list(self.corpus.warnings()),
            "train_rows": len(self.corpus.train),
            "held_out_rows": len(self.corpus.held_out),
            "fingerprint": self._fingerprint,
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
            raise UserError("the prompts are not what this run was trained on so far")
        self._go_to(state["epoch"], state["index"])
        self._draws, self._groups = state["draws"], state["groups"]
        self._samples = state["samples"]
        self.rewards.restore(state["rewards"])

    def _next(self, count: int) -> list[Kept]:
        chosen: list[Kept] = []
        while len(chosen) < count:
            if self._index == len(self._order):
                self._go_to(self._epoch + 1, 0)
            chosen.append(self.corpus.train[self._order[self._index]])
            self._index += 1
        return chosen

    def _go_to(self, epoch: int, index: int) -> None:
        self._epoch, self._index = epoch, index
        self._order = order(len(self.corpus.train), self.setting.seed, epoch)

    def _batch(
        self,
        prompts: Sequence[Prompt],
        groups: Sequence[Sequence[Completion]],
        scores: Sequence[Sequence[Score]],
    ) -> Rollouts:
        kept: list[tuple[int, int, Completion, float]] = []
        self._records = {}
        for prompt, completions, found in zip(prompts, groups, scores, strict=True):
            for completion, score in zip(completions, found, strict=True):
                self._records[self._samples] = self._record(prompt, completion, score)
                if score.value is not None:
                    kept.append((self._groups, self._samples, completion, score.value))
                self._samples += 1
            self._groups += 1
        group_N, sample_N, made, reward_N = zip(*kept, strict=True) if kept else ((), (), (), ())
        temperature = self.setting.rollout.temperature
        batch = Rollouts(
            as_sequences(made, temperature=temperature),
            torch.tensor(reward_N),
            torch.tensor(group_N),
            torch.tensor([c.truncated for c in made]),
            torch.tensor(sample_N),
            self.setting.rollout.max_new_tokens,
        )
        self._metrics = {"reward": float(batch.reward_N.mean())}
        return batch

    def _record(self, prompt: Prompt, completion: Completion, score: Score) -> dict[str, Any]:
        decode = self.setting.tokenizer.decode
        return {
            "row": prompt.row,
            "prompt": decode(prompt.ids, skip_special_tokens=True),
            "completion": decode(completion.tokens, skip_special_tokens=True),
            "truncated": completion.truncated,
            "reward": score.value,
            "parts": dict(score.parts),
        }


def _prompt(row: Kept) -> Prompt:
    return Prompt(row.row, tuple(row.tokens.prompt), None, row.columns or {})


@hookimpl
def provide_sources() -> Sequence[type[RolloutSource]]:
    return [RolloutSource]
