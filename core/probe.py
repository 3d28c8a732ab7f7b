"""Is prefix sharing exact with this model, here? Measured at start, on the longest row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.core.batches import Batch
from trimtab.core.layout import lay_out, rows_of
from trimtab.core.lm import LanguageModel
from trimtab.core.objective import Needs
from trimtab.core.policy import POLICY

TOLERANCE = 1e-4
"""In float32: nats a token, and the relative error of the gradient. Measured: 2e-5 and 6e-6."""

SLACK = 1.5
"""In bfloat16 any layout moves numbers; sharing may err so many times as much as padding."""


@dataclass(frozen=True)
class Verdict:
    """Whether to share prefixes, and the measurement that says so."""

    share: bool
    why: str


@dataclass(frozen=True)
class _Measured:
    logps_M: Tensor
    gradient: Tensor


def sharing_is_exact(model: LanguageModel, longest: Batch | None) -> Verdict:
    """Compare a shared layout of the row with the padded one, forward and backward."""
    if longest is None:
        return Verdict(False, "the longest row is not known")
    rows = rows_of(longest.sequences)
    if len({row.prompt for row in rows}) == len(rows):
        return Verdict(False, "no row has two completions of one prompt")
    if not lay_out(rows, share=True).shared:
        return Verdict(False, "reading a prompt again is cheaper than the longest row's attention")
    batch = longest.map(lambda tensor: tensor.to(model.device))
    try:
        padded, shared = _measure(model, batch, share=False), _measure(model, batch, share=True)
        if model.dtype == torch.float32:
            nats, gradient = _errors(shared, padded)
            exact = nats <= TOLERANCE and gradient <= TOLERANCE
            return Verdict(exact, f"{nats:.1e} nat a token and {gradient:.1e} of the gradient off")
        with _in_float32(model):
            truth = _measure(model, batch, share=False)
    except torch.OutOfMemoryError:
        return Verdict(False, "the longest row does not fit into memory twice")
    with_sharing, without = _errors(shared, truth), _errors(padded, truth)
    exact = all(a <= SLACK * b + TOLERANCE for a, b in zip(with_sharing, without, strict=True))
    return Verdict(
        exact,
        f"off float32 by {with_sharing[0]:.1e} nat a token and {with_sharing[1]:.1e} of the "
        f"gradient; padded by {without[0]:.1e} and {without[1]:.1e}",
    )


def _measure(model: LanguageModel, batch: Batch, *, share: bool) -> _Measured:
    before, model.share = model.share, share
    role = model.roles.names[0]
    parameters = model.trained()[role]
    try:
        with model.without_dropout(), model.role(role):
            filled = model.forward(batch.sequences, Needs())
            logps = [
                s.policy_NT[s.mask_NT] if role == POLICY else s.score_N for s in filled.values()
            ]
            # Equal completions, as labels may have them, do not cancel each other out.
            weights = [1.0 if i % 2 == 0 else -0.7 for i in range(len(logps))]
            total = torch.stack(
                [weight * part.sum() for weight, part in zip(weights, logps, strict=True)]
            ).sum()
            grads = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        model.share = before
    return _Measured(
        torch.cat(logps).detach(), torch.cat([g.flatten() for g in grads if g is not None])
    )


def _errors(one: _Measured, other: _Measured) -> tuple[float, float]:
    nats = float((one.logps_M - other.logps_M).abs().max())
    scale = float(other.gradient.norm()) or 1.0
    return nats, float((one.gradient - other.gradient).norm()) / scale


@contextmanager
def _in_float32(model: LanguageModel) -> Iterator[None]:
    """Compute in float32 with the same weights: bfloat16 comes back from float32 as it was."""
    narrow = [
        p for p in model.base.parameters() if p.dtype == torch.bfloat16 and p.is_floating_point()
    ]
    quantized = [m for m in model.base.modules() if hasattr(m, "compute_dtype")]
    dtype, model.dtype = model.dtype, torch.float32
    try:
        for parameter in narrow:
            parameter.data = parameter.data.float()
        for module in quantized:
            module.compute_dtype = torch.float32
        yield
    finally:
        model.dtype = dtype
        for parameter in narrow:
            parameter.data = parameter.data.bfloat16()
        for module in quantized:
            module.compute_dtype = dtype
