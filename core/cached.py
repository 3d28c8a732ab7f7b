"""A reference whose log-probs of fixed rows are kept on disk, and computed only where unknown."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.core.batches import Sequences
from trimtab.core.layout import rows_of
from trimtab.core.options import Config
from trimtab.core.policy import Policy
from trimtab.core.reference import Reference
from trimtab.core.reference_cache import ReferenceCache


class CachedReference(Reference[Config]):
    """Any reference behind a ``ReferenceCache``."""

    def __init__(self, reference: Reference, cache: ReferenceCache) -> None:
        super().__init__(reference.config)
        self.reference = reference
        self.cache = cache

    @torch.no_grad()
    def logps(self, policy: Policy, sequences: Mapping[str, Sequences]) -> dict[str, Tensor]:
        """log pi_ref [N, T] of each of the named sequences, 0 outside the mask.

        A row is computed again when any of its sequences is unknown. What is kept is of data, at
        temperature 1; sampled rows do not come twice.
        """
        if any(s.temperature != 1 for s in sequences.values()):
            return self.reference.logps(policy, sequences)
        keys = {
            name: [self.cache.key(*row) for row in rows_of({name: s})]
            for name, s in sequences.items()
        }
        known = self.cache.get(key for column in keys.values() for key in column)
        unknown = [
            n
            for n, row in enumerate(zip(*keys.values(), strict=True))
            if not known.keys() >= {*row}
        ]
        if unknown:
            rows = torch.tensor(unknown, device=policy.device)
            part = {name: s[rows] for name, s in sequences.items()}
            for name, logps_NT in self.reference.logps(policy, part).items():
                for n, length, logps_T in zip(
                    unknown, part[name].length_N.tolist(), logps_NT.float().cpu(), strict=True
                ):
                    self.cache.put(keys[name][n], logps_T[:length])
            known = self.cache.get(key for column in keys.values() for key in column)
        return {
            name: _column([known[key] for key in keys[name]], s) for name, s in sequences.items()
        }

    def keep(self, sequences: Sequences) -> None:
        """Know these rows from now on, whichever process computed their ``reference_NT``."""
        for row, logps_T in zip(
            rows_of({"": sequences}), sequences.reference_NT.float().cpu(), strict=True
        ):
            self.cache.put(self.cache.key(*row), logps_T[: len(row.completion)])

    def fingerprint(self, policy: Policy) -> str | None:
        """The reference's own."""
        return self.reference.fingerprint(policy)


def _column(rows: list[Tensor], sequences: Sequences) -> Tensor:
    column_NT = torch.zeros(sequences.tokens_NT.shape, dtype=torch.float32)
    for n, logps_T in enumerate(rows):
        column_NT[n, : len(logps_T)] = logps_T
    return column_NT.to(sequences.tokens_NT.device)
