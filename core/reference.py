"""Where reference log-probs come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from torch import Tensor
from typing_extensions import TypeVar

from trimtab.core.batches import Sequences
from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.config import ModelConfig
    from trimtab.core.policy import Policy

C = TypeVar("C", bound=Config, default=Any)


class Reference(ABC, Generic[C]):
    """Gives log pi_ref of completion tokens, without gradient."""

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    absent: ClassVar[bool] = False
    """There is none: nothing may ask it for log-probs."""

    fixed: ClassVar[bool] = False
    """It knows only the rows of a data set, all of which it is asked for before the first step."""

    def __init__(self, config: C) -> None:
        self.config = config

    def open(self, model: ModelConfig, policy: Policy) -> None:
        """Load what is needed. Raises ``UserError`` when it cannot serve this policy."""

    def seal(self) -> None:
        """The first step comes: what a ``fixed`` reference was not asked for, it never knows."""

    def advance(self, policy: Policy) -> None:
        """After each batch and its updates: a reference that moves does so here."""

    def tensors(self, policy: Policy) -> Mapping[str, Tensor]:
        """What has moved, for a checkpoint."""
        return {}

    def document(self) -> dict[str, Any]:
        """What else it must know to go on, as JSON for a checkpoint."""
        return {}

    def restore(
        self, policy: Policy, tensors: Mapping[str, Tensor], document: Mapping[str, Any]
    ) -> None:
        """Go on from what ``tensors`` and ``document`` gave."""

    @abstractmethod
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences, 0 outside the mask."""

    @abstractmethod
    def fingerprint(self, policy: Policy) -> str | None:
        """What determines its log-probs beside the tokens; None where they may not be cached."""
