"""A bigram policy with a critic, made of tables: the model of the tests that need no other."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimtab import Config, Needs, Reference, Sequences
from trimtab.core.batches import sequences
from trimtab.core.processes import Processes

V = 7


class Bigram:
    """``policy`` and ``reference`` score the next token; ``critic`` values the last one."""

    device = torch.device("cpu")

    def __init__(self, microbatch: int = 100, spread: float = 0.5) -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return spread * torch.randn(*shape, generator=generator, dtype=torch.float64)

        start_VV = normal(V, V)
        self.policy_VV = torch.nn.Parameter(start_VV.clone())
        self.critic_V = torch.nn.Parameter(normal(V))
        self.reference_VV = start_VV + normal(V, V)
        self.microbatch = microbatch
        self.active = "policy"
        self.forwards: Counter[tuple[str, bool]] = Counter()
        """How often each role ran, without and with gradient."""

    def trained(self):
        return {"policy": [self.policy_VV], "critic": [self.critic_V]}

    def cut(self, batch, skip=frozenset()):
        return torch.arange(len(batch)).split(self.microbatch)

    def halve(self):
        self.microbatch = max(1, self.microbatch // 2)

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
        self.forwards[self.active, torch.is_grad_enabled()] += 1
        return {name: self._filled(one, needs) for name, one in sequences.items()}

    def _filled(self, one, needs):
        before_NT = previous(one)
        if self.active == "critic":
            return replace(one, maybe_values_NT=self.critic_V[before_NT])
        table_VV = self.policy_VV if self.active == "policy" else self.reference_VV
        logps_NTV = table_VV.log_softmax(-1)[before_NT]
        logps_NT = logps_NTV.gather(-1, one.tokens_NT[..., None])[..., 0]
        tokenwise_NT = {name: made(logps_NTV, None) for name, made in needs.tokenwise.items()}
        return replace(
            one,
            maybe_policy_NT=logps_NT.masked_fill(~one.mask_NT, 0.0),
            tokenwise_NT=tokenwise_NT,
        )

    def gradients(self) -> list[Tensor]:
        """Of the policy's table and of the critic's, 0 where there is none."""
        both = (self.policy_VV, self.critic_V)
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in both]


class BigramReference(Reference[Config]):
    """The bigram's own reference table."""

    def logps(self, policy, sequences):
        with policy.role("reference"):
            filled = policy.forward(sequences, Needs())
        return {name: one.policy_NT for name, one in filled.items()}

    def fingerprint(self, policy):
        return None


REFERENCE = BigramReference(Config())


def previous(one: Sequences) -> Tensor:
    """The token before each: the prompt's last one before the first."""
    last_N1 = one.prompt_NP.gather(-1, one.prompt_length_N[:, None] - 1)
    return torch.cat([last_N1, one.tokens_NT[:, :-1]], 1)


def ragged(rows: int, seed: int = 0) -> Sequences:
    """Random prompts and completions of 1 to 4 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def texts() -> list[list[int]]:
        lengths = torch.randint(1, 5, (rows,), generator=generator).tolist()
        return [torch.randint(0, V, (n,), generator=generator).tolist() for n in lengths]

    return sequences(texts(), texts())


class OfTwo(Processes):
    """One of two processes that are threads, and exchange through a list."""

    count = 2

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.board = board
        self.barrier = barrier

    def gather(self, value):
        self.board[self.rank] = value
        self.barrier.wait(60)
        both = list(self.board)
        self.barrier.wait(60)
        return both

    def sum(self, tensor):
        first, second = self.gather(tensor)
        return first + second

    def sum_gradients(self, parameters):
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.sum(own)

    def wait(self):
        self.barrier.wait(60)


def in_two_processes(work: Callable[[Processes], Any]) -> list[Any]:
    """What each of two simulated processes returns for its ``Processes``."""
    board: list[Any] = [None, None]
    results: list[Any] = [None, None]
    barrier = threading.Barrier(2)

    def run(rank: int) -> None:
        try:
            results[rank] = work(OfTwo(rank, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
