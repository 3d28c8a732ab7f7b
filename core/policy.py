"""What the loop asks of the model: a protocol, so a table of numbers will do in tests."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from trimtab.core.batches import Batch, Sequences

if TYPE_CHECKING:
    from trimtab.core.objective import Needs

POLICY = "policy"
REFERENCE = "reference"
BASE = "base"
"""The base with every adapter off, the start's too."""

CRITIC = "critic"
LANGUAGE_ROLES = frozenset({POLICY, REFERENCE, BASE})
"""Roles that give log-probs. Every other role is scalar and gives values."""


class Policy(Protocol):
    """Turns tokens into columns: quantization, adapters, dtype and layout live behind it."""

    @property
    def device(self) -> torch.device:
        """Where its columns are."""

    def role(self, name: str) -> AbstractContextManager[None]:
        """Activate a role. It must enclose the role's forward *and* backward."""

    def forward(self, sequences: Mapping[str, Sequences], needs: Needs) -> dict[str, Sequences]:
        """Fill what the active role computes: policy_NT and tokenwise_NT, or values_NT.

        The role ``policy`` fills values_NT too where ``needs.trunk_values`` asks for it. All of a
        micro-batch's sequences come in one call, so that completions of one prompt can share it.
        Columns are 0 outside the mask.
        """

    def cut(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Tensor]:
        """Row numbers of each micro-batch, within the memory that the run allows.

        ``skip`` names sequences that the passes to come leave out.
        """

    def halve(self) -> None:
        """Cut micro-batches of half the size from now on; ``RunError`` when that cannot be."""

    def fingerprint(self, role: str) -> str | None:
        """What determines a role's log-probs beside the tokens; None where that is unknown."""

    def trained(self) -> Mapping[str, list[torch.nn.Parameter]]:
        """The trained parameters of each role."""
