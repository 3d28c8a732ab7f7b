"""PPO against a slow reference written from the equations, and what must hold of its updates."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import ppo_reference as slow
import pytest
import torch
from optimum import World, distance
from pydantic import ValidationError
from toy import REFERENCE, Bigram, in_two_processes, ragged

from trimtab import Demonstrations, Rollouts
from trimtab.core.columns import annotate, prepare
from trimtab.core.gradient import accumulate, active
from trimtab.core.loop import minibatch
from trimtab.core.objective import Updates
from trimtab.core.optimizer import clip
from trimtab.core.processes import Processes
from trimtab.objectives import functional as f
from trimtab.objectives.ppo import PPO

N = 10
BATCHES = 3
RATE = 0.5


class TrunkBigram(Bigram):
    """Its critic is a vector on the policy's own row of logits, so that both terms move it."""

    def forward(self, sequences, needs):
        filled = super().forward(sequences, needs)
        if not needs.trunk_values or self.active != "policy":
            return filled
        return {
            name: replace(one, maybe_values_NT=self.value_V[previous_of(one)])
            for name, one in filled.items()
        }

    @property
    def value_V(self):
        return self.policy_VV @ self.critic_V


def previous_of(one):
    """The token before each: the prompt's last one before the first."""
    last_N1 = one.prompt_NP.gather(-1, one.prompt_length_N[:, None] - 1)
    return torch.cat([last_N1, one.tokens_NT[:, :-1]], 1)


def as_tables(policy, trunk):
    """What the reference implementation asks, one row at a time."""

    def before(row):
        return [row.prompt[-1], *row.tokens[:-1]]

    def logps(row, table_VV=None):
        table_VV = policy.policy_VV if table_VV is None else table_VV
        return [
            table_VV[a][b] - torch.logsumexp(table_VV[a], 0)
            for a, b in zip(before(row), row.tokens, strict=True)
        ]

    def values(row):
        if trunk:
            return [(policy.policy_VV[a] * policy.critic_V).sum() for a in before(row)]
        return [policy.critic_V[a] for a in before(row)]

    def entropies(row):
        rows = [torch.softmax(policy.policy_VV[a], 0) for a in before(row)]
        return [-(p_V * p_V.log()).sum() for p_V in rows]

    def reference(row):
        return [float(one) for one in logps(row, policy.reference_VV)]

    return slow.Model(logps, values, reference, entropies)


def rollouts(seed):
    """Ragged rows with scores; the first token of every third row is not trained."""
    responses = ragged(N, seed)
    generator = torch.Generator().manual_seed(seed)
    mask_NT = responses.mask_NT.clone()
    mask_NT[::3, 0] = responses.length_N[::3] == 1
    sampled_NT = -2 * torch.rand(mask_NT.shape, generator=generator, dtype=torch.float64)
    return Rollouts(
        replace(responses, mask_NT=mask_NT, maybe_sampled_NT=sampled_NT),
        torch.randn(N, generator=generator, dtype=torch.float64),
        torch.arange(N),
        row_N=torch.arange(N),
    )


def demonstrations(seed):
    return Demonstrations(ragged(N, 100 + seed), row_N=torch.arange(N))


def listed(batch):
    """The same as the reference implementation has them."""
    s, rows = batch.responses, []
    for i in range(len(batch)):
        length, prompt = int(s.length_N[i]), int(s.prompt_length_N[i])
        row = slow.Row(
            s.prompt_NP[i, :prompt].tolist(),
            s.tokens_NT[i, :length].tolist(),
            s.mask_NT[i].nonzero()[:, 0].tolist(),
        )
        if isinstance(batch, Rollouts):
            row.score = float(batch.reward_N[i])
            row.sampled = [] if s.maybe_sampled_NT is None else s.sampled_NT[i].tolist()
        rows.append(row)
    return rows


OPTIONS = [
    {},
    {"epochs": 2, "minibatches": 3, "beta": 0.3, "value_scale": 0.7},
    {"value_clip": 0.01, "value_scale": 3.0, "clip": 0.01, "epochs": 3},
    {"value_clip": None, "whiten": False, "whiten_rewards": True, "gamma": 0.9, "lam": 0.5},
    {"kl": "adaptive", "kl_target": 0.5, "beta": 0.4},
    {"kl": "adaptive", "kl_target": 0.01, "beta": 0.4, "kl_gain": 1.0},
    {"kl": "penalty", "penalty": 2.0, "epochs": 3},
    {"entropy": 0.3, "minibatches": 2},
    {"ptx": 0.7, "minibatches": 2},
    {"critic": "trunk", "value_scale": 1.0, "entropy": 0.2, "ptx": 0.2, "minibatches": 2},
    {"critic": "trunk", "value_clip": 0.01, "kl": "penalty", "epochs": 3},
    {"importance_cap": 1.5, "minibatches": 2},
    {"warmup": 2, "ptx": 0.2},
    {"kl_stop": 0.002, "epochs": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "default")
@pytest.mark.parametrize("microbatch", [3, N])
def test_training_agrees_with_the_equations(options, microbatch):
    objective = PPO(PPO.options(**options))
    o, trunk = objective.config, objective.config.critic == "trunk"
    mine, other = (TrunkBigram(microbatch) for _ in range(2))
    model, beta = as_tables(other, trunk), o.beta
    for number in range(BATCHES):
        raw = {"batch": rollouts(number)}
        if o.ptx:
            raw["ptx"] = demonstrations(number)
        batch = annotate(mine, REFERENCE, raw["batch"], objective.needs)
        streams = {**raw, "batch": prepare(objective, batch)}
        rows = {name: listed(stream) for name, stream in raw.items()}
        logged = slow.prepare(model, rows["batch"], o, beta)
        history = []
        for update in range(o.epochs * o.minibatches):
            part = minibatch(streams, objective.updates, update, seed=number)
            metrics = accumulate(mine, objective, part)
            history.append(metrics)
            descend(mine)
            chosen = {
                name: [rows[name][i] for i in stream.row_N.tolist()]
                for name, stream in part.items()
            }
            loss, moved = slow.loss(
                model, chosen["batch"], chosen.get("ptx", ()), o, warm=number >= o.warmup
            )
            for parameter in (other.policy_VV, other.critic_V):
                parameter.grad = None
            loss.backward()
            descend(other)
            assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-10, abs=1e-12)
            assert metrics.get("kl_moved", 0.0) == pytest.approx(moved, rel=1e-8, abs=1e-12)
            for name, value in logged.items():
                assert metrics[name] == pytest.approx(value, rel=1e-10, abs=1e-12)
            stopped = o.kl_stop is not None and moved > o.kl_stop
            assert objective.stop(metrics) == stopped
            if stopped:
                break
        mean = {name: sum(m[name] for m in history) / len(history) for name in history[0]}
        objective.state = objective.advance(objective.state, mean)
        beta = slow.next_beta(beta, logged["kl_sequence"], o)
        assert objective.state["beta"] == pytest.approx(beta, rel=1e-12)
    assert largest_difference(mine, other) < 1e-10
    start = TrunkBigram()
    assert largest_difference(mine, start) > 1e-3


def descend(policy):
    with torch.no_grad():
        for parameter in (policy.policy_VV, policy.critic_V):
            if parameter.grad is not None:
                parameter.sub_(RATE * parameter.grad)


@torch.no_grad()
def largest_difference(one, other):
    return max(
        float((one.policy_VV - other.policy_VV).abs().max()),
        float((one.critic_V - other.critic_V).abs().max()),
    )


def prepared(objective, policy, **changes):
    raw = replace(rollouts(0), **changes)
    return {"batch": prepare(objective, annotate(policy, REFERENCE, raw, objective.needs))}


def test_the_first_update_starts_at_a_ratio_of_1_and_does_not_stay_there():
    objective, policy = PPO(PPO.options()), Bigram()
    streams = prepared(objective, policy)
    first = accumulate(policy, objective, streams)
    assert (first["ratio"], first["kl_moved"], first["clipped"]) == (1.0, 0.0, 0.0)
    descend(policy)
    second = accumulate(policy, objective, streams)
    assert second["kl_moved"] > 1e-6
    assert second["ratio"] != 1.0


def test_the_kl_is_0_where_policy_and_reference_are_one():
    objective, policy = PPO(PPO.options()), Bigram()
    policy.reference_VV = policy.policy_VV.detach().clone()
    metrics = accumulate(policy, objective, prepared(objective, policy))
    assert (metrics["kl_sequence"], metrics["kl_token"]) == (0.0, 0.0)


def test_minibatches_change_the_number_of_updates_and_each_visits_its_rows_once_an_epoch():
    streams = {"batch": rollouts(0)}
    for parts in (1, 2, 3, 4):
        updates = PPO(PPO.options(epochs=3, minibatches=parts)).updates
        assert updates == Updates(epochs=3, minibatches=parts)
        for epoch in range(3):
            seen = [
                minibatch(streams, updates, epoch * parts + part, seed=1)["batch"].row_N
                for part in range(parts)
            ]
            assert sorted(torch.cat(seen).tolist()) == list(range(N))


def test_the_eos_action_is_trained_although_padding_has_its_id():
    """toy.ragged pads with 0; here every completion also ends in a 0."""
    raw = rollouts(0)
    s = raw.responses
    last_N1 = (s.length_N - 1)[:, None]
    tokens_NT = s.tokens_NT.scatter(1, last_N1, 0)
    mask_NT = torch.arange(tokens_NT.shape[1]) < s.length_N[:, None]
    responses = replace(s, tokens_NT=tokens_NT, mask_NT=mask_NT)
    objective, policy = PPO(PPO.options(whiten=False)), Bigram()
    streams = prepared(objective, policy, responses=responses)
    at_eos_N1 = streams["batch"].columns["advantage_NT"].gather(1, last_N1)
    assert bool((at_eos_N1 != 0).all())
    accumulate(policy, objective, streams)
    seen = streams["batch"].responses
    without = replace(seen, mask_NT=mask_NT.scatter(1, last_N1, False))
    whole = policy.policy_VV.grad.clone()
    accumulate(policy, objective, {"batch": replace(streams["batch"], responses=without)})
    assert float((whole - policy.policy_VV.grad).abs().max()) > 1e-3


def test_the_entropy_is_not_averaged_over_padding():
    objective, policy = PPO(PPO.options(entropy=0.1)), Bigram()
    with torch.no_grad():
        policy.policy_VV.zero_()
    metrics = accumulate(policy, objective, prepared(objective, policy))
    assert metrics["entropy_token"] == pytest.approx(math.log(7), rel=1e-12)


def test_a_warmup_trains_the_critic_alone_then_both():
    objective, policy = PPO(PPO.options(warmup=1, entropy=0.1)), Bigram()
    metrics = accumulate(policy, objective, prepared(objective, policy))
    assert policy.policy_VV.grad is None
    assert float(policy.critic_V.grad.abs().max()) > 0
    objective.state = objective.advance(objective.state, metrics)
    assert len(active(objective)) == 3
    accumulate(policy, objective, prepared(objective, policy))
    assert float(policy.policy_VV.grad.abs().max()) > 0


@pytest.mark.parametrize("critic", ["adapter", "trunk"])
def test_two_processes_have_the_gradient_of_one(critic):
    objective = PPO(PPO.options(critic=critic, ptx=0.3, entropy=0.1))

    def work(processes):
        policy = TrunkBigram(microbatch=2)
        batch = annotate(policy, REFERENCE, rollouts(0), objective.needs, processes)
        streams = {"batch": prepare(objective, batch), "ptx": demonstrations(0)}
        metrics = accumulate(policy, objective, streams, processes)
        return policy.policy_VV.grad, policy.critic_V.grad, metrics["loss"]

    alone = work(Processes())
    for got in in_two_processes(work):
        for one, other in zip(got, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_the_gradient_is_clipped_for_each_role():
    objective, policy = PPO(PPO.options()), Bigram()
    accumulate(policy, objective, prepared(objective, policy))
    sizes = {
        role: float(torch.cat([p.grad.flatten() for p in own]).norm())
        for role, own in policy.trained().items()
    }
    limit = min(sizes.values()) / 2
    assert clip(policy.trained(), limit) == pytest.approx(sizes)
    for own in policy.trained().values():
        assert norm(own) == pytest.approx(limit, rel=1e-4)


def norm(parameters):
    return float(torch.cat([p.grad.flatten() for p in parameters]).norm())


EXACT = {"beta": 0.2, "whiten": False, "lam": 1.0, "value_clip": None}


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("options", [{}, {"kl": "penalty"}, {"critic": "trunk", "epochs": 1}])
def test_the_best_policy_is_reached(length, options):
    """A one-token bandit and a 3-step chain: pi_ref exp(R / beta) / Z, from 0.18 and 0.43 away."""
    world = World(length=length)
    policy = world.train(PPO(PPO.options(**EXACT, **options)))
    assert distance(policy.probability_Y(), world.best_Y(0.2)) < 2e-3


def test_the_best_policy_is_approached_in_a_few_steps():
    world = World(length=1)
    policy = world.train(PPO(PPO.options(**EXACT)), steps=40)
    assert distance(policy.probability_Y(), world.best_Y(0.2)) < 0.02


def test_the_state_is_json_and_counts_batches():
    objective = PPO(PPO.options(kl="adaptive", kl_target=1.0, beta=0.1))
    objective.state = objective.advance(objective.state, {"kl_sequence": 5.0})
    assert json.loads(json.dumps(objective.state)) == {"batches": 1, "beta": 0.1 * 1.02}


def test_the_log_of_a_batch_does_not_depend_on_how_it_is_cut():
    objective, policy = PPO(PPO.options(minibatches=3)), Bigram()
    streams = prepared(objective, policy)
    parts = [minibatch(streams, objective.updates, part, seed=0) for part in range(3)]
    metrics = [accumulate(policy, objective, part) for part in parts]
    for name in ("kl_sequence", "kl_token", "return", "explained_variance"):
        values = [one[name] for one in metrics]
        assert values == pytest.approx([values[0]] * 3, rel=1e-14)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kl": "adaptive", "beta": 0.0}, "set beta above 0"),
        ({"critic": "trunk", "warmup": 3}, "set warmup to 0, or critic to adapter"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PPO.options(**options)


def test_needs_only_what_the_options_use():
    assert not PPO(PPO.options(beta=0.0)).needs.reference
    assert not PPO(PPO.options()).needs.tokenwise
    assert not PPO(PPO.options()).streams
    assert PPO(PPO.options(critic="trunk")).needs.trunk_values


def test_advantages_cross_tokens_that_are_not_trained():
    # r = (0, -, 1), V = (0.5, -, 0.25), gamma 1, lam 1: A_2 = 1 - 0.25, A_0 = -0.25 + 0.75
    mask_NT = torch.tensor([[True, False, True]])
    reward_NT, value_NT = torch.tensor([[0.0, 9.0, 1.0]]), torch.tensor([[0.5, 9.0, 0.25]])
    advantage_NT, return_NT = f.gae(reward_NT, value_NT, mask_NT, gamma=1.0, lam=1.0)
    assert advantage_NT.tolist() == [[0.5, 0.0, 0.75]]
    assert return_NT.tolist() == [[1.0, 0.0, 1.0]]


def test_a_row_without_actions_gets_no_reward():
    mask_NT = torch.tensor([[False, False], [True, True]])
    assert f.at_last_action(torch.tensor([3.0, 4.0]), mask_NT).tolist() == [[0, 0], [0, 4]]


def test_explained_variance_is_0_where_there_is_none_to_explain():
    value_NT, mask_NT = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool)
    assert f.explained_variance(value_NT, torch.ones(1, 2), mask_NT) == 0
