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
from trimtab.core.sampling import as_sequences
from trimtab.core.source import Setting
from trimtab.plugins.sources.online import OnlineSource


class RolloutsConfig(Config):
    """No options of its own: the sections ``data``, ``rollout`` and ``reward`` say it all."""


class RolloutSource(OnlineSource[RolloutsConfig]):
    """Prompts in a new order each epoch, each answered by a group of completions, and scored.

    What no reward could score is left out of the batch, counted and logged. ``train.rows`` counts
    completions, and is a multiple of ``rollout.group``.
    """

    name = "rollouts"
    options = RolloutsConfig

    @classmethod
    def serves(cls, batch: type[Batch]) -> bool:
        return batch is Rollouts

    def open(self, setting: Setting) -> None:
        super().open(setting)
        if setting.rows % setting.group:
            raise UserError(
                f"train.rows is {setting.rows}, and cannot be made of whole groups of "
                f"{setting.group} completions (rollout.group): choose a multiple"
            )
        self.unit = setting.group

    def collect(self, policy: Policy, rows: int) -> Batch:
        kept: list[tuple[Completion, float, int, int, int]] = []
        for one in self.answered(-(-rows // self.setting.group)):
            numbered = enumerate(zip(one.completions, one.scores, strict=True), one.first)
            for number, (completion, score) in numbered:
                if score.value is not None:
                    kept.append((completion, score.value, one.row, one.number, number))
        made, *columns = zip(*kept, strict=True) if kept else ((), (), (), (), ())
        reward, *numbers = columns
        row_N, group_N, sample_N = (torch.tensor(each, dtype=torch.long) for each in numbers)
        return Rollouts(
            as_sequences(made, temperature=self.setting.rollout.temperature),
            torch.tensor(reward, dtype=torch.float32),
            group_N,
            torch.tensor([completion.truncated for completion in made], dtype=torch.bool),
            sample_N,
            self.setting.rollout.max_new_tokens,
            row_N=row_N,
        )

    def samples(self, batch: Batch | None) -> Sequence[Mapping[str, Any]]:
        """Those of the batch, and then what was sampled and is not in it, with the reason."""
        assert batch is None or isinstance(batch, Rollouts)
        if batch is None or batch.sample_N is None:
            return self.logged(())
        return self.logged(batch.sample_N.tolist())

    def steps_per_epoch(self, rows: int) -> int:
        return -(-len(self.corpus.train) // (rows // self.setting.group))

    def longest(self) -> Batch | None:
        """The longest prompt with made-up completions of all tokens that they may have."""
        if not (made := self.made_up()):
            return None
        one_N = torch.zeros(len(made), dtype=torch.long)
        responses = as_sequences(made, temperature=self.setting.rollout.temperature)
        return Rollouts(responses, one_N.float(), one_N, limit=self.setting.rollout.max_new_tokens)


@hookimpl
def provide_sources() -> Sequence[type[RolloutSource]]:
    return [RolloutSource]
