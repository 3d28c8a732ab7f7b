"""The contract of an objective: what it needs, which terms it has, and how each is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, get_args, get_origin

from torch import Tensor
from typing_extensions import TypeVar

from trimtab.core.batches import Batch
from trimtab.core.options import Config

B = TypeVar("B", bound=Batch, default=Any)
C = TypeVar("C", bound=Config, default=Any)

Tokenwise = Callable[[Tensor, Tensor | None], Tensor]
"""(logps_cV, reference_cV or None) -> one number a token, [c]; c is a chunk of tokens."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the core must put into the batch for this objective, and nothing more."""

    reference: bool = False
    """Reference log-probs, without gradient."""

    behaviour: bool = False
    """Log-probs of the policy that sampled, without gradient."""

    values: bool = False
    """The critic's values before the first update, for prepare(). Its head starts at 0."""

    trunk_values: bool = False
    """Values come from a head on the policy's own states, in the policy's passes, and no role
    ``critic`` has an adapter of its own."""

    before: frozenset[str] = frozenset()
    """Sequences whose policy and reference log-probs are wanted once, without gradient."""

    unused: frozenset[str] = frozenset()
    """Sequences of the batch of which nothing is wanted, so that no pass reads them."""

    tokenwise: Mapping[str, Tokenwise] = field(default_factory=dict)
    """Functions evaluated where the distribution over V exists, such as an entropy."""

    tokenwise_reference: bool = False
    """Give them the reference's distribution too; it costs a reference pass a micro-batch."""

    @property
    def skipped(self) -> frozenset[str]:
        """Sequences that passes with gradient leave out."""
        return self.before | self.unused


@dataclass(frozen=True, kw_only=True)
class Updates:
    """How often a batch is used: each epoch draws a new order and cuts it into minibatches."""

    epochs: int = 1
    minibatches: int = 1


@dataclass(frozen=True)
class Term:
    """One summand: scale * sum(value * weight) / sum(weight), over all rows of an update."""

    method: str
    """The objective's method that returns the unreduced values."""

    role: str = "policy"
    """Whose forward the values come from, and who gets their gradient."""

    rows: str = "batch"
    """The stream of rows it is computed on."""

    weight: str = "rows"
    """``rows``, ``tokens`` (of the first sequences), ``tokens:NAME``, or a prepared column."""

    scale: float = 1.0


@dataclass(frozen=True)
class Loss:
    """What a term's method returns for any rows: unreduced, so that splitting changes nothing."""

    value: Tensor
    """[N] or [N, T], the same shape as the term's weight."""

    metrics: Mapping[str, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    """[N] is averaged over rows; [N, T] is averaged with the term's weight.

    A pair (value, weight), both [N], is averaged with a weight of its own: over the rows of one
    label, for example.
    """


class Objective(Generic[B, C]):
    """``class Mine(Objective[Pairs, MyConfig])``: both types are read from the base class.

    A minimal objective writes ``name``, ``needs`` and ``loss``. Everything else has a default.
    """

    name: ClassVar[str]
    data: ClassVar[type[Batch]]
    options: ClassVar[type[Config]]

    needs: Needs = Needs()
    terms: tuple[Term, ...] = (Term("loss"),)
    updates: Updates = Updates()
    streams: Mapping[str, type[Batch]] = {}
    """Batch types of the streams beside ``batch`` that its terms name in ``rows``."""

    group: int = 1
    """Completions of each prompt that it wants, where the run file does not say."""

    least_group: int = 1
    """With fewer completions of each prompt it would learn nothing."""

    shown: tuple[str, ...] = ("advantage_N", "advantage_NT", "return_NT", "old_value_NT")
    """Prepared columns that ``samples.jsonl`` has of each row; of tokens their mean."""

    state: Mapping[str, Any] = {}
    """JSON, kept in the checkpoint; replaced by the core, never written to."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in vars(cls).get("__orig_bases__", ()):
            if get_origin(base) is Objective:
                cls.data, cls.options = get_args(base)

    def __init__(self, config: C) -> None:
        self.config = config

    def keep(self, batch: B) -> Tensor | None:
        """Which rows to train on, bool [N], or None for all; the core replaces the others."""
        return None

    def prepare(self, batch: B) -> Mapping[str, Tensor]:
        """Columns [N] or [N, T] that need the whole batch, without gradient: advantages."""
        return {}

    def loss(self, batch: B) -> Loss:
        """Unreduced loss of some rows of a prepared batch, with gradient."""
        raise NotImplementedError(
            f"{type(self).__name__} must define loss(), or name other methods in terms"
        )

    def active(self, term: Term) -> bool:
        """Is the term computed in this batch? It may depend on ``state``, and on nothing else."""
        return True

    def advice(self, account: Mapping[str, Any]) -> Iterable[str]:
        """What the user should be told before training, given what the source says of its rows."""
        return ()

    def stop(self, metrics: Mapping[str, float]) -> bool:
        """After an update: leave out the remaining updates on this batch?"""
        return False

    def advance(self, state: Mapping[str, Any], metrics: Mapping[str, float]) -> Mapping[str, Any]:
        """After a batch: the next state, from the mean metrics of its updates."""
        return state
