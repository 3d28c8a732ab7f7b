"""The role ``base`` is the base that was never wrapped, bit for bit, whatever lies on it."""

from __future__ import annotations

import pytest
import torch
from test_roles import TwoRoles, logps
from tiny import DEVICE, gradient, policy, ragged_pairs, save_tiny

from trimtab import Config, Needs
from trimtab.core.columns import annotate
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base
from trimtab.core.policy import BASE, POLICY, REFERENCE
from trimtab.core.roles import Roles
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

FROZEN = "reward_1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A policy's adapter, and a reward model's."""
    home = tmp_path_factory.mktemp("trained")
    policy(tiny, seed=3).roles.save(POLICY, home / "policy", str(tiny))
    scalar = policy(tiny, scalar=("reward",), language=False, seed=7, rank=8)
    scalar.roles.save("reward", home / "reward", str(tiny))
    return home


def bare(tiny, quantization):
    config = ModelConfig(name=str(tiny), quantization=quantization)
    roles = Roles(load_base(config, DEVICE), None, frozen=True)
    return LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)


def made(tiny, trained, kind, **held):
    """A policy on which much else lies."""
    if kind == "critic and frozen reward":
        return policy(tiny, scalar=("critic",), frozen_roles={FROZEN: trained / "reward"}, **held)
    if kind == "trunk":
        return policy(tiny, trunk=True, **held)
    model = policy(tiny, seed=5, **held)
    if kind in ("continue", "stack"):
        model.roles.start_from(trained / "policy", kind)
    return model


KINDS = ["adapter", "continue", "stack", "critic and frozen reward", "trunk"]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_bit_equal_to_the_bare_base(tiny, trained, kind, quantization):
    model = made(tiny, trained, kind, quantization=quantization)
    want = logps(bare(tiny, quantization), POLICY)
    assert torch.equal(logps(model, BASE), want)
    assert not torch.equal(logps(model, POLICY), want)
    assert torch.equal(logps(model, BASE), want)
    in_start = kind in ("continue", "stack")
    assert torch.equal(logps(model, REFERENCE), want) != in_start
    assert torch.equal(logps(model, BASE), want)


@pytest.mark.parametrize(
    ("kind", "checkpointing"), [*((kind, False) for kind in KINDS), (KINDS[-2], True)]
)
def test_reading_it_changes_no_gradient_and_no_output_of_the_others(
    tiny, trained, kind, checkpointing
):
    """Neither before an update, nor between two, nor from within a role."""
    untouched = made(tiny, trained, kind, checkpointing=checkpointing)
    model = made(tiny, trained, kind, checkpointing=checkpointing)
    both = kind == "critic and frozen reward"
    objective = TwoRoles(Config())
    if not both:
        objective.terms = TwoRoles.terms[:1]
    for _ in range(2):
        logps(model, BASE)
        for one in (untouched, model):
            accumulate(one, objective, {"batch": ragged_pairs()})
        assert torch.equal(gradient(model), gradient(untouched))
        assert float(gradient(model).norm()) > 0
        logps(model, BASE)
        for one in (untouched, model):
            for parameters in one.trained().values():
                torch.optim.SGD(parameters, lr=0.1).step()
        annotate(model, AdapterOff(AdapterOffConfig()), ragged_pairs(), Needs(reference=True))
        assert torch.equal(logps(model, POLICY), logps(untouched, POLICY))
    with model.role(POLICY):
        before = {id(p) for p in model.base.parameters() if p.requires_grad}
        logps(model, BASE)
        assert model.roles.active == POLICY
        assert {id(p) for p in model.base.parameters() if p.requires_grad} == before
    assert all(module.training for module in model.base.modules())


def test_a_base_that_nothing_trains_is_there_without_an_adapter(tiny):
    assert torch.equal(logps(bare(tiny, "none"), BASE), logps(bare(tiny, "none"), POLICY))


def test_a_base_that_is_trained_itself_is_not_there_any_more(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    roles = Roles(load_base(config, DEVICE), None)
    refused = pytest.raises(UserError, match="the role 'base' is the base with its adapter off")
    with refused, roles.role(BASE):
        pass
