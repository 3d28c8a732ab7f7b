"""Random batches and a policy made of free numbers, for the conformance kit and for authors.

Every position of every completion has its own token id, and the policy looks its columns up by id.
So the gradient of the tables is the objective's gradient at each position, in whatever order and
padding the positions are presented, and it is computed by the core's own ``accumulate``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trimtab.core.batches import Batch, Rollouts, Sequences, sequences
from trimtab.core.columns import annotate, forward, prepare
from trimtab.core.errors import RunError
from trimtab.core.gradient import Streams, accumulate
from trimtab.core.objective import Loss, Needs, Objective, Term
from trimtab.core.options import Config
from trimtab.core.policy import LANGUAGE_ROLES, POLICY, REFERENCE, Policy
from trimtab.core.processes import Processes
from trimtab.core.reference import Reference

ROWS = 6
TOKENS = 5
POSITIONS = 512
"""Size of the tables; token id 0 is padding."""

CRITIC = "critic"

Tables = Mapping[str, Tensor]


class TablePolicy:
    """One free number for each role, and each tokenwise function, at each position.

    Unlike a model's, its columns are not 0 outside the mask, so that a missing mask shows.
    """

    device = torch.device("cpu")

    def __init__(self, tables: Tables, microbatch: int = ROWS) -> None:
        self.tables = {name: torch.nn.Parameter(table.clone()) for name, table in tables.items()}
        self.microbatch = microbatch
        self.active = POLICY

    def trained(self) -> dict[str, list[torch.nn.Parameter]]:
        """Every table, by its name."""
        return {name: [table] for name, table in self.tables.items()}

    def cut(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Tensor]:
        """So many rows at a time, in order."""
        return list(torch.split(torch.arange(len(batch)), self.microbatch))

    def halve(self) -> None:
        """Half as many rows at a time."""
        if self.microbatch == 1:
            raise RunError("one row at a time is as few as can be")
        self.microbatch //= 2

    def fingerprint(self, role: str) -> str | None:
        """Nothing of it is cached."""
        return None

    @contextmanager
    def role(self, name: str) -> Iterator[None]:
        """Activate one table."""
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before

    def forward(self, sequences: Mapping[str, Sequences], needs: Needs) -> dict[str, Sequences]:
        """Look up the active table at every position."""
        return {name: self._filled(one, needs) for name, one in sequences.items()}

    def _filled(self, sequences: Sequences, needs: Needs) -> Sequences:
        column_NT = self.tables[self.active][sequences.tokens_NT]
        if self.active not in LANGUAGE_ROLES:
            end_N1 = (sequences.length_N - 1).clamp(min=0)[:, None]
            score_N = column_NT.gather(1, end_N1)[:, 0].masked_fill(sequences.length_N == 0, 0.0)
            return replace(sequences, maybe_values_NT=column_NT, maybe_score_N=score_N)
        if needs.trunk_values:
            values_NT = self.tables[CRITIC][sequences.tokens_NT]
            sequences = replace(sequences, maybe_values_NT=values_NT)
        tokenwise_NT = {name: self.tables[name][sequences.tokens_NT] for name in needs.tokenwise}
        return replace(sequences, maybe_policy_NT=column_NT, tokenwise_NT=tokenwise_NT)


class TableReference(Reference[Config]):
    """The table ``reference``."""

    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """Look it up."""
        with policy.role(REFERENCE):
            filled = policy.forward(sequences, Needs())
        return {name: one.policy_NT for name, one in filled.items()}

    def fingerprint(self, policy: Policy) -> str | None:
        """Nothing of it is cached."""
        return None


class OneOf(Processes):
    """One of several processes; what all of them give is to be added up by the caller."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count


@dataclass(frozen=True)
class Example:
    """Rows of every stream an objective reads, and a policy before and after some updates."""

    objective: Objective
    raw: Streams
    start: Tables
    now: Tables

    @classmethod
    def random(cls, objective: Objective, seed: int = 0, *, soft: bool = False) -> Example:
        """Ragged rows with random numbers; ``soft`` gives labels between 0 and 1, and margins.

        Every term is computed, also one that would be inactive in the objective's state.
        """
        maker = _Maker(seed)
        kinds = {"batch": objective.data, **objective.streams}
        raw = {name: maker.batch(kind, soft) for name, kind in kinds.items()}
        start = maker.tables(objective)
        now = {name: table + 0.3 * maker.normal(POSITIONS) for name, table in start.items()}
        waits = not all(map(objective.active, objective.terms))
        shown = with_terms(objective, objective.terms) if waits else objective
        return cls(shown, raw, start, now)

    def map_rows(self, change: Callable[[Batch], Batch]) -> Example:
        """The same with every stream's batch changed by a function."""
        return replace(self, raw={name: change(batch) for name, batch in self.raw.items()})

    def cast(self, dtype: torch.dtype) -> Example:
        """The same numbers in another precision."""

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        example = self.map_rows(lambda batch: batch.map(cast))
        tables = [{name: cast(t) for name, t in part.items()} for part in (self.start, self.now)]
        return replace(example, start=tables[0], now=tables[1])

    def streams(self) -> Streams:
        """The rows, annotated and prepared."""
        policy, objective = TablePolicy(self.start), self.objective
        reference = TableReference(Config())
        batch = annotate(policy, reference, self.raw["batch"], objective.needs)
        return {**self.raw, "batch": prepare(objective, batch)}

    def gradient(
        self, microbatch: int = ROWS, processes: Processes | None = None
    ) -> dict[str, Tensor]:
        """The gradient of every table, 0 where there is none."""
        policy = TablePolicy(self.now, microbatch)
        accumulate(policy, self.objective, self.streams(), processes)
        return {
            name: torch.zeros_like(table) if table.grad is None else table.grad
            for name, table in policy.tables.items()
        }

    def metrics(self) -> dict[str, float]:
        """What the core would report."""
        return accumulate(TablePolicy(self.now), self.objective, self.streams())

    def filled(self) -> Iterator[tuple[Term, Batch]]:
        """Every term, with the rows that its method sees."""
        policy, streams = TablePolicy(self.now), self.streams()
        for term in self.objective.terms:
            with policy.role(term.role):
                yield term, forward(policy, streams[term.rows], self.objective.needs)

    def losses(self) -> Iterator[tuple[Term, Batch, Loss]]:
        """Every term, its rows, and what its method returns."""
        for term, batch in self.filled():
            yield term, batch, getattr(self.objective, term.method)(batch)


class _Maker:
    """Draws rows and tables; every completion token gets an id that no other one has."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.next_id = 1
        self.equal = seed % 2 == 1
        """Whether all rewards of one group of rollouts are equal."""

    def batch(self, kind: type[Batch], soft: bool) -> Batch:
        made: dict[str, Any] = {
            "desirable_N": torch.arange(ROWS) % 2 == 0,
            "reward_N": self.uniform(ROWS),
            "group_N": torch.arange(ROWS) // 4,
            "truncated_N": torch.arange(ROWS) % 4 == 1,
            "sample_N": torch.arange(ROWS),
            "limit": TOKENS,
            "preference_N": 0.5 + self.uniform(ROWS) / 2 if soft else None,
            "better_NKK": self.better(soft),
            "margin_NKK": self.margin() if soft else None,
        }
        # With postponed annotations, a field's type is its source text.
        for field in fields(kind):
            if field.type in ("Sequences", Sequences):
                made[field.name] = self.sequences()
            elif field.type in ("tuple[Sequences, ...]", tuple[Sequences, ...]):
                made[field.name] = (self.sequences(), self.sequences(), _some(self.sequences()))
        if issubclass(kind, Rollouts):
            made["responses"] = self.sampled(made["responses"])
            if self.equal:
                made["reward_N"][made["group_N"] == 1] = 0.5
        return kind(**{f.name: made[f.name] for f in fields(kind) if f.name in made})

    def sampled(self, sequences: Sequences) -> Sequences:
        """With log-probs from an engine that is not the policy."""
        sampled_NT = -2 * self.uniform(ROWS * TOKENS).view(ROWS, TOKENS)
        return replace(sequences, maybe_sampled_NT=sampled_NT)

    def better(self, soft: bool) -> Tensor:
        """Response 0 was preferred to 1, and 1 to 2, which only every second row has."""
        certain = torch.ones(3, 3, dtype=torch.float64).triu(1)
        better_NKK = certain.expand(ROWS, 3, 3).clone()
        if soft:
            better_NKK *= 0.5 + self.uniform(ROWS * 9).view(ROWS, 3, 3) / 2
        better_NKK += (1 - better_NKK).mT.tril(-1)
        better_NKK[:, range(3), range(3)] = torch.nan
        better_NKK[1::2, 2] = better_NKK[1::2, :, 2] = torch.nan
        return better_NKK

    def margin(self) -> Tensor:
        """By how much each response is better than those after it."""
        margin_NKK = self.uniform(ROWS * 9).view(ROWS, 3, 3).triu(1)
        return margin_NKK - margin_NKK.mT

    def sequences(self) -> Sequences:
        """Of each completion at least one token is trained, and not always the first."""
        tokens_NT = torch.arange(ROWS * TOKENS).view(ROWS, TOKENS) + self.next_id
        self.next_id += ROWS * TOKENS
        length_N = torch.randint(2, TOKENS + 1, (ROWS,), generator=self.generator)
        first_N = torch.randint(0, 2, (ROWS,), generator=self.generator)
        position_T = torch.arange(TOKENS)
        return Sequences(
            tokens_NT=tokens_NT,
            mask_NT=(position_T >= first_N[:, None]) & (position_T < length_N[:, None]),
            prompt_NP=torch.tensor([[1, 2, 3]]).expand(ROWS, 3),
            prompt_length_N=torch.arange(ROWS) % 3 + 1,
            length_N=length_N,
        )

    def tables(self, objective: Objective) -> dict[str, Tensor]:
        language = {name: -2 * self.uniform(POSITIONS) for name in (POLICY, REFERENCE)}
        scalars = {CRITIC, *(term.role for term in objective.terms)} - LANGUAGE_ROLES
        others = sorted(scalars | set(objective.needs.tokenwise))
        return {**language, **{name: 0.1 * self.normal(POSITIONS) for name in others}}

    def uniform(self, size: int) -> Tensor:
        return torch.rand(size, generator=self.generator, dtype=torch.float64)

    def normal(self, size: int) -> Tensor:
        return torch.randn(size, generator=self.generator, dtype=torch.float64)


def with_terms(objective: Objective, terms: Iterable[Term]) -> Objective:
    """A copy of it that computes these terms, in whatever state it is."""
    other = copy.copy(objective)
    other.terms = tuple(terms)
    vars(other)["active"] = _always
    return other


def _always(term: Term) -> bool:
    return True


def tables_of(objective: Objective, role: str) -> set[str]:
    """The tables that get gradient in the passes of a role."""
    if role not in LANGUAGE_ROLES:
        return {role}
    return {role, *objective.needs.tokenwise} | (
        {CRITIC} if objective.needs.trunk_values else set()
    )


def _some(sequences: Sequences) -> Sequences:
    """Every second row's completion; the others are empty."""
    gone_N = torch.arange(len(sequences)) % 2 == 1
    return replace(
        sequences,
        mask_NT=sequences.mask_NT & ~gone_N[:, None],
        length_N=sequences.length_N.masked_fill(gone_N, 0),
    )


def widen(batch: Batch, *, completion: int = 0, prompt: int = 0) -> Batch:
    """The same rows with so many more columns of padding."""
    wide = {
        name: replace(
            one,
            tokens_NT=pad(one.tokens_NT, (0, completion)),
            mask_NT=pad(one.mask_NT, (0, completion)),
            prompt_NP=pad(one.prompt_NP, (0, prompt)),
            maybe_sampled_NT=None
            if one.maybe_sampled_NT is None
            else pad(one.maybe_sampled_NT, (0, completion)),
        )
        for name, one in batch.sequences.items()
    }
    return batch.with_sequences(wide)


def without_tokens(batch: Batch) -> Batch:
    """The same rows, but nothing of the first one's completions is trained."""
    first_N = torch.arange(len(batch)) == 0
    empty = {
        name: replace(
            one,
            mask_NT=one.mask_NT & ~first_N[:, None],
            length_N=one.length_N.masked_fill(first_N, 0),
        )
        for name, one in batch.sequences.items()
    }
    return batch.with_sequences(empty)


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in a batch, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, tuple):
        return [tensor for item in value for tensor in tensors(item)]
    if isinstance(value, (Batch, Sequences)):
        return tensors(vars(value))
    return []


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Equal to rounding, by name."""
    return a.keys() == b.keys() and all(
        torch.allclose(a[name], b[name], rtol=1e-9, atol=1e-12) for name in a
    )


def given(
    policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]] | None = None
) -> Sequences:
    """Sequences whose log-probs are these numbers, all trained, for tests with literals.

    >>> given([[-1.0, -2.0], [-3.0]], reference=[[-1.0, -1.0], [-1.0]]).logratio_N
    tensor([-1., -2.])
    """
    made = sequences([[1]] * len(policy), [[1] * len(row) for row in policy])
    return replace(
        made,
        maybe_policy_NT=_padded(policy),
        maybe_reference_NT=None if reference is None else _padded(reference),
    )


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
