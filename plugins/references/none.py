"""No reference: for objectives that need none, so that no KL is measured either."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.hookspecs import hookimpl
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.reference import Reference


class NoReferenceConfig(Config):
    """It has no options."""


class NoReference(Reference[NoReferenceConfig]):
    """There is none. An objective that needs reference log-probs is refused before it trains."""

    name = "none"
    options = NoReferenceConfig
    absent = True

    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """Nothing may ask."""
        raise NotImplementedError("reference 'none' has no log-probs")

    def fingerprint(self, policy: Policy) -> str | None:
        """None: there is nothing to cache."""
        return None


@hookimpl
def provide_references() -> list[type]:
    """Register none."""
    return [NoReference]
