"""Objectives for tests, one for each corner of the contract that the shipped ones leave alone."""

from __future__ import annotations

import torch

from trimtab import Config, Demonstrations, Labelled, Loss, Needs, Objective, Rollouts, Term


class Threshold(Objective[Labelled, Config]):
    """Move completions away from a reference point of the whole batch: arXiv:2402.01306."""

    name = "toy.threshold"
    needs = Needs(reference=True, before=frozenset({"mismatched"}))

    def prepare(self, batch):
        return {"point_N": batch.mismatched.logratio_N.mean().clamp(min=0).expand(len(batch))}

    def loss(self, batch):
        sign_N = torch.where(batch.desirable_N, 1.0, -1.0)
        gain_N = sign_N * (batch.responses.logratio_N - batch.columns["point_N"])
        return Loss(1 - torch.sigmoid(gain_N), {"gain": gain_N})


def entropy(logps_cV, reference_cV):
    """Of the next token, in nats."""
    return -(logps_cV.exp() * logps_cV).sum(-1)


class ActorCritic(Objective[Rollouts, Config]):
    """Two roles, a second stream, a tokenwise function, a state and a filter: arXiv:1602.01783."""

    name = "toy.actor_critic"
    needs = Needs(behaviour=True, values=True, tokenwise={"entropy": entropy})
    streams = {"text": Demonstrations}
    terms = (
        Term("actor", weight="tokens"),
        Term("critic", role="critic", scale=0.5),
        Term("imitation", rows="text", weight="tokens", scale=0.1),
    )

    def __init__(self, config):
        super().__init__(config)
        self.state = {"baseline": 0.0}

    def keep(self, batch):
        same_NN = batch.group_N[:, None] == batch.group_N
        return (same_NN & (batch.reward_N > 0)).any(1)

    def prepare(self, batch):
        mask_NT = batch.responses.mask_NT
        value_N = batch.responses.values_NT.masked_fill(~mask_NT, 0.0).sum(-1)
        return {"advantage_N": batch.reward_N - self.state["baseline"] - value_N}

    def actor(self, batch):
        responses = batch.responses
        moved_NT = (responses.policy_NT - responses.behaviour_NT).masked_fill(
            ~responses.mask_NT, 0.0
        )
        gain_NT = moved_NT.exp() * batch.columns["advantage_N"][:, None]
        entropy_NT = responses.tokenwise_NT["entropy"]
        return Loss(-gain_NT - 0.01 * entropy_NT, {"reward": batch.reward_N})

    def critic(self, batch):
        mask_NT = batch.responses.mask_NT
        value_N = batch.responses.values_NT.masked_fill(~mask_NT, 0.0).sum(-1)
        return Loss((value_N - batch.reward_N).square())

    def imitation(self, batch):
        return Loss(-batch.responses.policy_NT)

    def advance(self, state, metrics):
        return {"baseline": 0.9 * state["baseline"] + 0.1 * metrics["reward"]}
