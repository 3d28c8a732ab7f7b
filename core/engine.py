"""One interface for what generates: prompts in, sampled completions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from torch import Tensor
from typing_extensions import TypeVar

from trimtab.core.options import Config

if TYPE_CHECKING:
    from trimtab.core.config import ModelConfig
    from trimtab.core.lm import LanguageModel

C = TypeVar("C", bound=Config, default=Any)


@dataclass(frozen=True)
class Completion:
    """What was sampled for one prompt."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    """The end-of-turn action is the last of them, where the policy took it."""

    truncated: bool
    """It did not end by itself."""

    logps: tuple[float, ...] | None = None
    """log pi of each token as the engine computed it, in nats; None where it does not say."""

    entropy: tuple[float, ...] | None = None
    """Of the distribution that each token was drawn from, in nats; None where it does not say."""


@dataclass(frozen=True)
class EngineSetting:
    """What an engine is told of the run it serves."""

    model: ModelConfig
    policy: LanguageModel
    tokenizer: Any
    stops: frozenset[int]
    """Ids that end a completion; the first of them is kept, and nothing after it."""


class Engine(ABC, Generic[C]):
    """Samples from the policy as it is now, for training. No weight and no gradient is touched."""

    name: ClassVar[str]
    options: ClassVar[type[Config]]

    def __init__(self, config: C) -> None:
        self.config = config

    def open(self, setting: EngineSetting) -> None:
        """Prepare to serve a run. Raises ``UserError`` when it cannot."""
        self.setting = setting

    @abstractmethod
    def sample(
        self, prompts: Sequence[Sequence[int]], uniform_NT: Tensor, *, temperature: float
    ) -> list[Completion]:
        """One completion a prompt, from the role ``policy``.

        Equal prompts are a group, and need to be read only once. Row n is drawn by its own uniform
        numbers, so that it does not depend on the company it is sampled in.

        Args:
            prompts: token ids of each of N prompts.
            uniform_NT: in [0, 1); T is the most tokens sampled.
            temperature: divides the logits.
        """
