"""PPO on a real, tiny language model: what splitting, padding and sharing must not change."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import ppo_reference as slow
import pytest
import torch
from test_ppo import listed
from tiny import gradient, policy, relative, save_tiny

from trimtab import Demonstrations, Rollouts
from trimtab.core.batches import sequences
from trimtab.core.columns import annotate, prepare
from trimtab.core.examples import widen
from trimtab.core.gradient import accumulate
from trimtab.core.loop import minibatch
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.objectives.ppo import PPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

OFF = AdapterOff(AdapterOffConfig())
GROUP, GROUPS, EOS = 3, 2, 2
FULL = {"ptx": 0.5, "entropy": 0.01, "value_scale": 0.5}
CRITICS = ["adapter", "trunk"]
BASES = ["none", pytest.param("nf4", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def model_for(tiny, objective, **changes):
    trunk = objective.config.critic == "trunk"
    critic = {"trunk": True} if trunk else {"scalar": ("critic",)}
    return policy(tiny, spread=0.1, **critic, **changes)


def raw():
    """Groups of one prompt with ragged completions that end in the EOS, which pads too."""
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [ids(5 + 4 * (i // GROUP)) for i in range(GROUP * GROUPS)]
    prompts = [prompts[i - i % GROUP] for i in range(len(prompts))]
    completions = [[*ids(1 + 2 * i), EOS] for i in range(len(prompts))]
    return {
        "batch": Rollouts(
            sequences(prompts, completions),
            torch.linspace(-1, 1, len(prompts)),
            torch.arange(len(prompts)) // GROUP,
            row_N=torch.arange(len(prompts)),
        ),
        "ptx": Demonstrations(
            sequences([ids(3 + i) for i in range(4)], [[*ids(7 - i), EOS] for i in range(4)]),
            row_N=torch.arange(4),
        ),
    }


def streams_of(model, objective, rows):
    batch = annotate(model, OFF, rows["batch"], objective.needs)
    used = {name: rows[name] for name in objective.streams}
    return {"batch": prepare(objective, batch), **used}


@torch.no_grad()
def nudge(model, size=0.01):
    """Move every trained parameter a little, so that the ratio leaves 1."""
    generator = torch.Generator().manual_seed(7)
    for own in model.trained().values():
        for parameter in own:
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def as_rows(model, objective):
    """What the reference implementation asks: transformers' own forward of one row."""
    trunk = objective.config.critic == "trunk"

    def role(name):
        return nullcontext() if torch.is_grad_enabled() else model.role(name)

    def out(row):
        ids = torch.tensor([row.prompt + row.tokens])
        found = model.base(input_ids=ids, use_cache=False, output_hidden_states=True)
        before = slice(len(row.prompt) - 1, -1)
        return found.logits[0, before].log_softmax(-1), found.hidden_states[-1][0, before]

    def logps(row, name=POLICY):
        with role(name):
            logps_TV = out(row)[0]
        return logps_TV.gather(-1, torch.tensor(row.tokens)[:, None])[:, 0]

    def values(row):
        with role(POLICY if trunk else "critic"):
            hidden_TH = out(row)[1]
            return (model.roles.trunk if trunk else model.base.score)(hidden_TH)[:, 0]

    def entropies(row):
        logps_TV = out(row)[0]
        return -(logps_TV.exp() * logps_TV).sum(-1)

    def reference(row):
        with torch.no_grad(), model.role(REFERENCE):
            return logps(row, REFERENCE).tolist()

    return slow.Model(logps, values, reference, entropies)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_gradient_agrees_with_the_equations(tiny, critic):
    objective = PPO(PPO.options(critic=critic, **FULL))
    model, rows, o = model_for(tiny, objective), raw(), objective.config
    streams = streams_of(model, objective, rows)
    plain = as_rows(model, objective)
    told = {name: listed(stream) for name, stream in rows.items()}
    logged = slow.prepare(plain, told["batch"], o, o.beta)
    nudge(model)
    metrics = accumulate(model, objective, streams)
    mine = gradient(model)
    for name, value in logged.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for own in model.trained().values():
        for parameter in own:
            parameter.grad = None
    with model.role(POLICY):
        loss = slow.policy_loss(plain, told["batch"], o)[0]
        loss = loss + o.entropy * slow.entropy_loss(plain, told["batch"])
        loss = loss + o.ptx * slow.ptx_loss(plain, told["ptx"])
        if critic == "trunk":
            loss = loss + o.value_scale * slow.value_loss(plain, told["batch"], o)
        loss.backward()
    if critic == "adapter":
        with model.role("critic"):
            (o.value_scale * slow.value_loss(plain, told["batch"], o)).backward()
    assert relative(mine, gradient(model)) < 1e-5


CHANGES = {
    "micro-batches": ({"micro_tokens": 40}, None),
    "completion padding": ({}, partial(widen, completion=5)),
    "prompt padding": ({}, partial(widen, prompt=5)),
    "prefix sharing": ({"share": True}, None),
    "sharing in micro-batches": ({"share": True, "micro_tokens": 60}, None),
}


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_gradient_of_both_roles_is_invariant(tiny, critic, change):
    settings, wider = CHANGES[change]
    objective = PPO(PPO.options(critic=critic, **FULL))
    model, other = model_for(tiny, objective), model_for(tiny, objective, **settings)
    rows = raw()
    changed = rows if wider is None else {name: wider(one) for name, one in rows.items()}
    for each, seen in ((model, rows), (other, changed)):
        streams = streams_of(each, objective, seen)
        nudge(each)
        accumulate(each, objective, streams)
    for role, own in model.trained().items():
        for one, two in zip(own, other.trained()[role], strict=True):
            assert (one.grad is None) == (two.grad is None)
    assert relative(gradient(other), gradient(model)) < 2e-5
    assert all(any(p.grad is not None for p in own) for own in model.trained().values())


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("quantization", BASES)
def test_checkpointing_changes_no_bit(tiny, critic, quantization):
    objective = PPO(PPO.options(critic=critic, **FULL))
    found = []
    for checkpointing in (False, True):
        model = model_for(tiny, objective, checkpointing=checkpointing, quantization=quantization)
        streams = streams_of(model, objective, raw())
        nudge(model)
        accumulate(model, objective, streams)
        found.append(gradient(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_ratio_is_1_at_first_and_not_after_a_perturbation(tiny, critic, quantization):
    objective = PPO(PPO.options(critic=critic, epochs=2, minibatches=2))
    model = model_for(tiny, objective, quantization=quantization)
    streams = streams_of(model, objective, raw())
    whole = accumulate(model, objective, streams)
    assert (whole["ratio"], whole["kl_moved"], whole["clipped"]) == (1.0, 0.0, 0.0)
    first = accumulate(model, objective, minibatch(streams, objective.updates, 0, seed=0))
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert first["clipped"] == 0
    nudge(model)
    assert accumulate(model, objective, streams)["kl_moved"] > 1e-6


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_kl_is_0_before_training(tiny, quantization):
    objective = PPO(PPO.options())
    model = model_for(tiny, objective, quantization=quantization, perturbed=False)
    metrics = accumulate(model, objective, streams_of(model, objective, raw()))
    assert (metrics["kl_sequence"], metrics["kl_token"]) == (0.0, 0.0)
