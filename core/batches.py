"""What objectives see: typed batches, one class for each kind of feedback.

Shape suffixes, used in every name: N = rows (pairs or samples), P = prompt tokens,
T = completion tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor


class NotDeclared(AttributeError):
    """An objective read a column that its ``needs`` did not ask for."""


def _declared(column: Tensor | None, name: str, remedy: str) -> Tensor:
    if column is None:
        raise NotDeclared(f"{name} is not in this batch: {remedy}")
    return column


@dataclass(frozen=True)
class Sequences:
    """N prompts with their completions, and the columns computed for them.

    Both parts are padded on the right. The ``maybe_`` columns may be absent.
    """

    tokens_NT: Tensor
    """Completion token ids, the EOS action included."""

    mask_NT: Tensor
    """bool; True on the completion tokens to train. Never derived from the padding id."""

    prompt_NP: Tensor
    """Prompt token ids."""

    prompt_length_N: Tensor
    """How many of the P are real; at least 1, for a token is predicted from the one before."""

    length_N: Tensor
    """How many of the T are real."""

    maybe_sampled_NT: Tensor | None = None
    maybe_policy_NT: Tensor | None = None
    maybe_reference_NT: Tensor | None = None
    maybe_behaviour_NT: Tensor | None = None
    maybe_values_NT: Tensor | None = None
    maybe_score_N: Tensor | None = None
    tokenwise_NT: Mapping[str, Tensor] = field(default_factory=dict)
    """What the functions in ``Needs.tokenwise`` returned."""

    temperature: float = 1.0
    """Divides the logits in all of these log-probs: that of sampling, and 1 for data."""

    @property
    def sampled_NT(self) -> Tensor:
        """log-probs that the engine gave when it sampled, by a computation of its own."""
        remedy = "these rows were not sampled, or rollout.engine does not tell log-probs"
        return _declared(self.maybe_sampled_NT, "sampled_NT", remedy)

    @property
    def policy_NT(self) -> Tensor:
        """log pi(token); it has a gradient, unless these sequences are in ``Needs.before``."""
        remedy = (
            "it exists in terms of the role 'policy'; "
            "in prepare(), ask for Needs(behaviour=True) or Needs(before=...)"
        )
        return _declared(self.maybe_policy_NT, "policy_NT", remedy)

    @property
    def reference_NT(self) -> Tensor:
        """log pi_ref(token), without gradient."""
        return _declared(self.maybe_reference_NT, "reference_NT", "ask for Needs(reference=True)")

    @property
    def behaviour_NT(self) -> Tensor:
        """log-probs of the policy that sampled, without gradient."""
        return _declared(self.maybe_behaviour_NT, "behaviour_NT", "ask for Needs(behaviour=True)")

    @property
    def values_NT(self) -> Tensor:
        """What the scalar role predicts: with gradient in its terms, without in prepare()."""
        remedy = "it exists in terms of a scalar role; in prepare(), ask for Needs(values=True)"
        return _declared(self.maybe_values_NT, "values_NT", remedy)

    @property
    def score_N(self) -> Tensor:
        """What a scalar role says of the whole completion, read at its end; 0 where it is empty.

        The state is that of the last token which is not the model's padding, as in
        ``AutoModelForSequenceClassification``: docs/decisions/0007.
        """
        return _declared(self.maybe_score_N, "score_N", "it exists in terms of a scalar role")

    @property
    def policy_N(self) -> Tensor:
        """log pi(y|x) of the whole completion, in nats."""
        return self.policy_NT.masked_fill(~self.mask_NT, 0.0).sum(-1)

    @property
    def logratio_NT(self) -> Tensor:
        """log pi/pi_ref of each token, 0 outside the mask."""
        return (self.policy_NT - self.reference_NT).masked_fill(~self.mask_NT, 0.0)

    @property
    def logratio_N(self) -> Tensor:
        """log pi(y|x)/pi_ref(y|x) of the whole completion, in nats."""
        return self.logratio_NT.sum(-1)

    @property
    def count_N(self) -> Tensor:
        """How many tokens of each row are trained."""
        return self.mask_NT.sum(-1)

    def __getitem__(self, rows: Tensor) -> Self:
        return _map(self, lambda tensor: tensor[rows])  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.tokens_NT)


@dataclass(frozen=True)
class Batch:
    """Rows are the unit of everything: batching, shuffling and weights. A row is never split."""

    columns: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    """What prepare() returned, [N] or [N, T] each."""

    row_N: Tensor | None = field(default=None, kw_only=True)
    """Which row of the data this is, as the user counts them, for messages and samples."""

    def __getitem__(self, rows: Tensor) -> Self:
        return self.map(lambda tensor: tensor[rows])

    def __len__(self) -> int:
        return len(self.leading)

    @property
    def sequences(self) -> dict[str, Sequences]:
        """Every Sequences by the name of its field; of a tuple of them, ``responses_0`` and on."""
        found: dict[str, Sequences] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Sequences):
                found[f.name] = value
            elif _are_sequences(value):
                found |= {f"{f.name}_{k}": one for k, one in enumerate(value)}
        return found

    @property
    def leading(self) -> Sequences:
        """The first Sequences field: the one that a term's ``weight="tokens"`` counts."""
        return next(iter(self.sequences.values()))

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same batch with every tensor in it changed."""
        return _map(self, change)  # type: ignore[no-any-return]

    def with_sequences(self, sequences: Mapping[str, Sequences]) -> Self:
        """The same rows, with these in place of theirs, by the names of ``sequences``."""
        changes: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in sequences:
                changes[f.name] = sequences[f.name]
            elif _are_sequences(value):
                changes[f.name] = tuple(
                    sequences.get(f"{f.name}_{k}", one) for k, one in enumerate(value)
                )
        return replace(self, **changes)

    def with_columns(self, columns: Mapping[str, Tensor]) -> Self:
        """Add prepared columns, each with one entry a row."""
        for name, column in columns.items():
            if len(column) != len(self):
                raise ValueError(
                    f"column {name!r} of prepare() has {len(column)} rows, not {len(self)}"
                )
        return replace(self, columns={**self.columns, **columns})


def _are_sequences(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, Sequences) for one in value)


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_map(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, (Sequences, Batch)):
        return replace(
            value, **{f.name: _map(getattr(value, f.name), change) for f in fields(value)}
        )
    return value


@dataclass(frozen=True)
class Demonstrations(Batch):
    """N completions to imitate."""

    responses: Sequences


@dataclass(frozen=True)
class Pairs(Batch):
    """N preferences: row i of ``chosen`` was preferred to row i of ``rejected``."""

    chosen: Sequences
    rejected: Sequences
    preference_N: Tensor | None = None
    """P(chosen is really better), in [0.5, 1]; None where the labels are hard."""

    sample_N2: Tensor | None = None
    """Where both were sampled: the numbers of the chosen and of the rejected completion, which the
    source gives to no other; they find the texts."""


@dataclass(frozen=True)
class Ranked(Batch):
    """N prompts with up to K responses each, and which of any two was preferred.

    A pair is a ranking of two. Where a row has fewer than K responses, the others are empty.
    """

    responses: tuple[Sequences, ...]
    """K of them; the rows of each are the N prompts."""

    better_NKK: Tensor
    """P(response i is better than response j), in [0, 1]; NaN where the two were not compared.

    Filled above and below the diagonal: better[n, i, j] = 1 - better[n, j, i].
    """

    margin_NKK: Tensor | None = None
    """By how much i is better than j, in the raters' units; the negative of [n, j, i]."""

    @property
    def score_NK(self) -> Tensor:
        """The active scalar role's score of each response, 0 for an empty one."""
        return torch.stack([one.score_N for one in self.responses], dim=-1)


@dataclass(frozen=True)
class Labelled(Batch):
    """N completions with a thumbs up or down, and N mismatched ones to estimate a KL from."""

    responses: Sequences
    desirable_N: Tensor
    """bool."""

    mismatched: Sequences
    """Each row's prompt, followed by the completion of a row that has another prompt."""


@dataclass(frozen=True)
class Rollouts(Batch):
    """N completions sampled from the policy and scored.

    Completions that could not be scored are not among them.
    """

    responses: Sequences
    reward_N: Tensor
    group_N: Tensor
    """Rows of one prompt share a number, and a source never gives one number twice."""

    truncated_N: Tensor | None = None
    """bool; True where a completion did not end by itself. None where nobody knows."""

    sample_N: Tensor | None = None
    """A number of each completion, that a source never gives twice; it finds the text."""

    limit: int | None = None
    """The most tokens that a completion could have."""


B = TypeVar("B", bound=Batch)


def sequences(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Sequences:
    """Pad token ids into Sequences in which every completion token is trained.

    >>> made = sequences([[1, 2]], [[3, 4, 5]])
    >>> made.tokens_NT.tolist(), made.mask_NT.tolist(), made.prompt_NP.tolist()
    ([[3, 4, 5]], [[True, True, True]], [[1, 2]])
    """
    length_N = torch.tensor([len(ids) for ids in completions], dtype=torch.long)
    tokens_NT = _padded(completions)
    return Sequences(
        tokens_NT=tokens_NT,
        mask_NT=torch.arange(tokens_NT.shape[1]) < length_N[:, None],
        prompt_NP=_padded(prompts),
        prompt_length_N=torch.tensor([len(ids) for ids in prompts], dtype=torch.long),
        length_N=length_N,
    )


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    if not rows:
        return torch.zeros(0, 0, dtype=torch.long)
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True
    )


def join(parts: Sequence[B]) -> B:
    """Stack the rows of freshly collected batches of one type, padding to the widest."""
    return _join(list(parts))  # type: ignore[no-any-return]


def _join(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        width = max(value.shape[-1] for value in values) if first.ndim == 2 else 0
        return torch.cat([widened(value, width) for value in values])
    if isinstance(first, tuple):
        return tuple(_join(list(same)) for same in zip(*values, strict=True))
    if isinstance(first, (Sequences, Batch)):
        return replace(
            first,
            **{f.name: _join([getattr(value, f.name) for value in values]) for f in fields(first)},
        )
    if isinstance(first, Mapping):
        return {key: _join([value[key] for value in values]) for key in first}
    return first


def widened(tensor: Tensor, width: int) -> Tensor:
    """[N, T] padded with zeros on the right to ``width`` columns; others are left alone."""
    if tensor.ndim != 2:
        return tensor
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1]))
