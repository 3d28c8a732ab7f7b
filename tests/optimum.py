"""Worlds so small that the best policy is known, and the core's own loop to train in them.

A world has every completion of ``length`` tokens out of ``size``: a one-token bandit with
``length=1``, a chain of decisions with more. With a reward R and a KL weight beta, the policy that
maximises E[R] - beta KL(pi || pi_ref), over whole completions, is pi_ref exp(R / beta) / Z.

    world = World(length=3)
    policy = world.train(PPO(PPO.options(beta=0.2)))
    assert distance(policy.probability_Y(), world.best_Y(0.2)) < 0.02

Shape suffixes: Y = completions, numbered in the order of their tokens; S = states, one for each
prefix: the state that token a leads to from state s is s * size + a + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from toy import REFERENCE

from trimtab import Batch, Objective, Rollouts, Sequences, Source
from trimtab.core.loop import Loop


class Chain:
    """A policy and a reference that are tables of logits, and a critic that is one of values."""

    device = torch.device("cpu")

    def __init__(self, size: int, length: int, reference_SV: Tensor) -> None:
        self.size, self.length = size, length
        self.reference_SV = reference_SV
        self.policy_SV = torch.nn.Parameter(reference_SV.clone())
        self.critic_S = torch.nn.Parameter(torch.zeros(len(reference_SV), dtype=torch.float64))
        self.active = "policy"

    @property
    def completions_YT(self) -> Tensor:
        """All of them."""
        return torch.cartesian_prod(*[torch.arange(self.size)] * self.length).view(-1, self.length)

    @torch.no_grad()
    def probability_Y(self, role: str = "policy") -> Tensor:
        """Of each completion."""
        with self.role(role):
            return self._logps(self.completions_YT).sum(-1).exp()

    def trained(self):
        return {"policy": [self.policy_SV], "critic": [self.critic_S]}

    def cut(self, batch, skip=frozenset()):
        return [torch.arange(len(batch))]

    def halve(self):
        raise AssertionError("a table fits into memory")

    def fingerprint(self, role):
        return None

    @contextmanager
    def role(self, name):
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before

    def forward(self, sequences, needs):
        return {name: self._filled(one, needs) for name, one in sequences.items()}

    def _filled(self, one, needs):
        values_NT = self.critic_S[self._states(one.tokens_NT)]
        if self.active == "critic":
            return replace(one, maybe_values_NT=values_NT)
        if needs.trunk_values:
            one = replace(one, maybe_values_NT=values_NT)
        logps_NTV = self._table_SV.log_softmax(-1)[self._states(one.tokens_NT)]
        made = {name: function(logps_NTV, None) for name, function in needs.tokenwise.items()}
        return replace(one, maybe_policy_NT=self._logps(one.tokens_NT), tokenwise_NT=made)

    @property
    def _table_SV(self) -> Tensor:
        return self.reference_SV if self.active == "reference" else self.policy_SV

    def _logps(self, tokens_NT: Tensor) -> Tensor:
        logps_NTV = self._table_SV.log_softmax(-1)[self._states(tokens_NT)]
        return logps_NTV.gather(-1, tokens_NT[..., None])[..., 0]

    def _states(self, tokens_NT: Tensor) -> Tensor:
        """The state before each token."""
        state_N = torch.zeros(len(tokens_NT), dtype=torch.long)
        states = []
        for token_N in tokens_NT.T:
            states.append(state_N)
            state_N = state_N * self.size + token_N + 1
        return torch.stack(states, -1)


class Draws(Source):
    """One group of completions of the policy, as close to its probabilities as so many can be.

    Systematic sampling: completion y is drawn floor(rows * p(y)) or once more, and on average
    rows * p(y) times.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.generator = torch.Generator().manual_seed(0)
        self.groups = 0

    @classmethod
    def serves(cls, batch):
        return batch is Rollouts

    def open(self, setting):
        pass

    def collect(self, policy, rows: int) -> Batch:
        edge_Y = policy.probability_Y().cumsum(0)
        shift = torch.rand(1, generator=self.generator, dtype=torch.float64)
        drawn_N = torch.searchsorted(edge_Y, (torch.arange(rows) + shift) / rows * edge_Y[-1])
        tokens_NT = policy.completions_YT[drawn_N]
        self.groups += 1
        return Rollouts(
            whole(tokens_NT),
            self.world.reward_Y[drawn_N],
            torch.full((rows,), self.groups),
            truncated_N=torch.zeros(rows, dtype=torch.bool),
            sample_N=torch.arange(rows),
            limit=self.world.length,
        )

    def held_out(self):
        return None

    def state(self):
        return {}

    def restore(self, state):
        pass


@dataclass(frozen=True)
class World:
    """Random rewards of order 1, and a random reference."""

    length: int = 1
    size: int = 3

    @property
    def reward_Y(self) -> Tensor:
        """Of each completion."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.size**self.length,)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    def policy(self) -> Chain:
        """The reference, to start from."""
        generator = torch.Generator().manual_seed(2)
        states = sum(self.size**t for t in range(self.length))
        shape = (states, self.size)
        logits_SV = torch.randn(shape, generator=generator, dtype=torch.float64)
        return Chain(self.size, self.length, 0.5 * logits_SV)

    def best_Y(self, beta: float) -> Tensor:
        """pi_ref exp(R / beta) / Z, the probability of each completion."""
        weight_Y = self.policy().probability_Y("reference") * (self.reward_Y / beta).exp()
        return weight_Y / weight_Y.sum()

    def train(
        self,
        objective: Objective,
        *,
        steps: int = 150,
        rows: int = 256,
        rate: float = 0.1,
        source: Callable[[World], Source] = Draws,
    ) -> Chain:
        """The policy after so many steps of Adam, whose rate falls to 0 in a line."""
        policy = self.policy()
        groups = [{"params": parameters} for parameters in policy.trained().values()]
        optimizer = torch.optim.Adam(groups, lr=rate)
        fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        loop = Loop(
            policy=policy,
            objective=objective,
            sources={"batch": source(self)},
            optimizer=optimizer,
            schedule=fall,
            rows=rows,
            reference=REFERENCE,
            max_grad_norm=1e9,
        )
        for step in range(1, steps + 1):
            loop.step(step)
        return policy


def whole(tokens_NT: Tensor) -> Sequences:
    """Completions of equal length, every token of which is trained, to one prompt."""
    rows, length = tokens_NT.shape
    return Sequences(
        tokens_NT=tokens_NT,
        mask_NT=torch.ones(rows, length, dtype=torch.bool),
        prompt_NP=torch.zeros(rows, 1, dtype=torch.long),
        prompt_length_N=torch.ones(rows, dtype=torch.long),
        length_N=torch.full((rows,), length),
    )


def distance(one_Y: Tensor, other_Y: Tensor) -> float:
    """Total variation: the largest difference in the probability of any set of completions."""
    return float((one_Y - other_Y).abs().sum() / 2)
