"""PPO from the equations, a token at a time: slow, and without any of the project's maths.

Schulman et al. 2017 (eq. 7, 8), Schulman et al. 2016 (eq. 11, 16), Ziegler et al. 2019 (section
2.2), Ouyang et al. 2022 (eq. 2), Huang et al. 2024 (whitening, value clipping).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev, pvariance
from typing import Any

import torch
from torch import Tensor


@dataclass
class Row:
    """A completion, and what it was scored; ``old`` and the lists after it are filled later."""

    prompt: list[int]
    tokens: list[int]
    trained: list[int]
    score: float = 0.0
    sampled: list[float] = field(default_factory=list)
    old: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    advantages: dict[int, float] = field(default_factory=dict)
    returns: dict[int, float] = field(default_factory=dict)


@dataclass
class Model:
    """One number a token each: the first two with gradient."""

    logps: Callable[[Row], Sequence[Tensor]]
    values: Callable[[Row], Sequence[Tensor]]
    reference: Callable[[Row], Sequence[float]]
    entropies: Callable[[Row], Sequence[Tensor]]


def prepare(model: Model, rows: Sequence[Row], o: Any, beta: float) -> dict[str, float]:
    """Fill old, values, advantages and returns; what should be logged of the rollouts."""
    rewards, ratios = [], []
    with torch.no_grad():
        for row in rows:
            row.old = [float(each) for each in model.logps(row)]
            row.values = [float(each) for each in model.values(row)]
            reference = model.reference(row)
            ratios.append({t: row.old[t] - reference[t] for t in row.trained})
            reward = {t: -beta * ratios[-1][t] for t in row.trained}
            if row.trained:
                reward[row.trained[-1]] += row.score
            rewards.append(reward)
    if o.whiten_rewards:
        flat = [one for reward in rewards for one in reward.values()]
        scale, mean = pstdev(flat) + 1e-8, fmean(flat)
        rewards = [{t: (r - mean) / scale + mean for t, r in one.items()} for one in rewards]
    for row, reward in zip(rows, rewards, strict=True):
        deltas = []
        for i, t in enumerate(row.trained):
            last = i + 1 == len(row.trained)
            following = 0.0 if last else row.values[row.trained[i + 1]]
            deltas.append(reward[t] + o.gamma * following - row.values[t])
        for i, t in enumerate(row.trained):
            row.advantages[t] = sum(
                (o.gamma * o.lam) ** later * delta for later, delta in enumerate(deltas[i:])
            )
            row.returns[t] = row.advantages[t] + row.values[t]
    returns = [one for row in rows for one in row.returns.values()]
    missed = [row.returns[t] - row.values[t] for row in rows for t in row.trained]
    if o.whiten:
        flat = [one for row in rows for one in row.advantages.values()]
        mean, scale = fmean(flat), pstdev(flat) + 1e-8
        for row in rows:
            row.advantages = {t: (a - mean) / scale for t, a in row.advantages.items()}
    every = [one for ratio in ratios for one in ratio.values()]
    return {
        "kl_sequence": fmean(sum(ratio.values()) for ratio in ratios),
        "kl_token": fmean(math.exp(-d) + d - 1 for d in every),
        "explained_variance": 1 - pvariance(missed) / pvariance(returns),
        "return": fmean(returns),
    }


def number(tensor: Tensor) -> float:
    """Without its gradient."""
    return float(tensor.detach())


def policy_loss(model: Model, rows: Sequence[Row], o: Any) -> tuple[Tensor, float]:
    """The surrogate, mean over tokens; and KL(old, new)."""
    terms, moved = [], []
    for row in rows:
        logps = model.logps(row)
        for t in row.trained:
            ratio = torch.exp(logps[t] - row.old[t])
            advantage = row.advantages[t]
            kl = ratio - 1 - torch.log(ratio)
            if o.kl == "penalty":
                term = -(ratio * advantage - o.penalty * kl)
            else:
                bounded = min(max(number(ratio), 1 - o.clip), 1 + o.clip)
                inside = 1 - o.clip <= number(ratio) <= 1 + o.clip
                clipped = (ratio if inside else ratio.new_tensor(bounded)) * advantage
                term = -min(ratio * advantage, clipped, key=number)
            if o.importance_cap is not None:
                term = term * min(math.exp(row.old[t] - row.sampled[t]), o.importance_cap)
            terms.append(term)
            moved.append(number(kl))
    return sum(terms) / len(terms), fmean(moved)


def value_loss(model: Model, rows: Sequence[Row], o: Any) -> Tensor:
    """The critic's, mean over tokens."""
    terms = []
    for row in rows:
        values = model.values(row)
        for t in row.trained:
            plain = (values[t] - row.returns[t]) ** 2
            if o.value_clip is None:
                terms.append(plain / 2)
                continue
            step = number(values[t]) - row.values[t]
            if abs(step) <= o.value_clip:
                terms.append(plain / 2)
            else:
                near = row.values[t] + math.copysign(o.value_clip, step)
                stuck = torch.tensor((near - row.returns[t]) ** 2, dtype=plain.dtype)
                terms.append(max(plain, stuck, key=number) / 2)
    return sum(terms) / len(terms)


def entropy_loss(model: Model, rows: Sequence[Row]) -> Tensor:
    """Minus the mean entropy before a trained token."""
    terms = [-model.entropies(row)[t] for row in rows for t in row.trained]
    return sum(terms) / len(terms)


def ptx_loss(model: Model, rows: Sequence[Row]) -> Tensor:
    """The mean cross-entropy of a trained token."""
    terms = [-model.logps(row)[t] for row in rows for t in row.trained]
    return sum(terms) / len(terms)


def loss(
    model: Model, rows: Sequence[Row], ptx: Sequence[Row], o: Any, *, warm: bool
) -> tuple[Tensor, float]:
    """Everything that is minimised, and KL(old, new)."""
    total, moved = o.value_scale * value_loss(model, rows, o), 0.0
    if warm:
        policy, moved = policy_loss(model, rows, o)
        total = total + policy
        if o.entropy:
            total = total + o.entropy * entropy_loss(model, rows)
        if o.ptx:
            total = total + o.ptx * ptx_loss(model, ptx)
    return total, moved


def next_beta(beta: float, kl: float, o: Any) -> float:
    """Ziegler's controller."""
    if o.kl != "adaptive":
        return beta
    error = kl / o.kl_target - 1
    error = 0.2 if error > 0.2 else -0.2 if error < -0.2 else error
    return beta * (1 + o.kl_gain * error)
