"""PPO as it is where each of its four models is a copy of its own, to measure what that holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.benchmarks.online import OnlineJob
from trimtab.benchmarks.start import ADAPTER, base
from trimtab.core.batches import Batch, Sequences
from trimtab.core.build import Parts
from trimtab.core.lm import LanguageModel
from trimtab.core.objective import Needs
from trimtab.core.optimizer import make_optimizer, make_schedule
from trimtab.core.policy import CRITIC, POLICY, REFERENCE
from trimtab.core.roles import Roles
from trimtab.core.training import TrainConfig


class Apart:
    """The ``Policy`` protocol over models that share nothing, one for each role."""

    def __init__(self, models: Mapping[str, LanguageModel]) -> None:
        self.models = models
        self.active = POLICY

    @property
    def device(self) -> torch.device:
        """The policy's."""
        return self.models[POLICY].device

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """The model of that role, with its adapter where it has one."""
        before, self.active = self.active, name
        with self.models[name].role(POLICY if name == REFERENCE else name):
            yield
        self.active = before

    def forward(self, sequences: Mapping[str, Sequences], needs: Needs) -> dict[str, Sequences]:
        """By the active role's model."""
        return self.models[self.active].forward(sequences, needs)

    def cut(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Tensor]:
        """As the policy does."""
        return self.models[POLICY].cut(batch, skip)

    def halve(self) -> None:
        """Every model."""
        for model in self.models.values():
            model.halve()

    def fingerprint(self, role: str) -> str | None:
        """Nothing is cached."""
        return None

    def trained(self) -> Mapping[str, list[nn.Parameter]]:
        """The adapters of policy and critic."""
        return {role: list(self.models[role].trained()[role]) for role in (POLICY, CRITIC)}


def apart(parts: Parts, job: OnlineJob, reward: Path) -> Parts:
    """The same parts with reference, critic and reward model each on a base of its own."""
    policy = parts.model
    for role in [name for name in policy.roles.peft.peft_config if name != POLICY]:
        policy.roles.peft.delete_adapter(role)
    policy.roles.names = [POLICY]

    def copy(roles: Roles) -> LanguageModel:
        return LanguageModel(
            roles, dtype=policy.dtype, micro_tokens=policy.micro_tokens, share=policy.share
        )

    models = {
        POLICY: policy,
        REFERENCE: copy(Roles(base(job), None, frozen=True)),
        CRITIC: copy(
            Roles(base(job), ADAPTER, scalar=[CRITIC], policy=False, zero_heads=[CRITIC])
        ),
    }
    assert parts.rewards is not None
    (member,) = parts.rewards.members
    scored: Any = member.reward
    (role,) = scored._scorer.center
    scored._scorer = replace(scored._scorer, model=copy(Roles.loaded(base(job), {role: reward})))
    together = Apart(models)
    train = TrainConfig(learning_rate=1e-4, schedule="constant")
    optimizer = make_optimizer(together.trained(), train)
    loop = replace(
        parts.loop,
        policy=together,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, train, job.warmup + job.steps),
    )
    return replace(parts, loop=loop)
