"""A critic that is a head on the policy's own states: one pass for both, and the policy's bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import DEVICE, gradient, perturb, policy, ragged_pairs, relative, save_tiny

from trimtab import Config, Loss, Needs, Objective, Pairs, Term
from trimtab.core.columns import annotate, forward
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.finished import reward_members
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base
from trimtab.core.policy import CRITIC, POLICY, REFERENCE
from trimtab.core.processes import Processes
from trimtab.core.roles import Roles
from trimtab.core.value_head import VALUE_HEAD
from trimtab.plugins.registry import Plugins

BOTH = Needs(behaviour=True, values=True, trunk_values=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


class Shared(Objective[Pairs, Config]):
    """A policy term and a value term on one trunk."""

    needs = BOTH
    terms = (Term("loss"), Term("value", weight="tokens"))

    def loss(self, batch):
        return Loss(-batch.chosen.policy_NT.sum(-1))

    def value(self, batch):
        return Loss((batch.chosen.values_NT - 1).square())


class PolicyAlone(Shared):
    """Only the first term, though values are there."""

    terms = (Term("loss"),)


class NoCritic(PolicyAlone):
    """Values are not asked for at all."""

    needs = Needs(behaviour=True)


def shared(tiny, **changes):
    """A policy with a head on its trunk that is not 0."""
    model = policy(tiny, trunk=True, **changes)
    with torch.no_grad():
        perturb(model.roles, 0.3)
    return model


def test_the_head_starts_at_zero_and_is_a_role_of_its_own(tiny):
    model = policy(tiny, trunk=True, perturbed=False)
    trained = model.trained()
    assert list(trained) == [POLICY, CRITIC]
    (head,) = trained[CRITIC]
    assert head.shape == (1, 64) and head.dtype == torch.float32 and not head.any()
    assert head.requires_grad
    batch = annotate(model, None, ragged_pairs(), BOTH)
    assert not batch.chosen.values_NT.any()


def test_values_are_of_the_states_that_predict_each_token(tiny):
    model = shared(tiny)
    (head,) = model.trained()[CRITIC]
    batch = ragged_pairs()
    with torch.no_grad(), model.role(POLICY):
        values_NT = forward(model, batch, BOTH).chosen.values_NT
        s = batch.chosen
        for n in range(len(batch)):
            prompt = s.prompt_NP[n, : s.prompt_length_N[n]].tolist()
            answer = s.tokens_NT[n, : s.length_N[n]].tolist()
            hidden = model.base.base_model(torch.tensor([prompt + answer])).last_hidden_state[0]
            want = (hidden @ head.T)[len(prompt) - 1 : -1, 0]
            assert torch.allclose(values_NT[n, : len(answer)], want, atol=1e-4)
    assert not values_NT[~s.mask_NT].any()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_policy_is_the_same_to_the_bit_with_the_head_and_without(tiny, quantization):
    plain = policy(tiny, quantization=quantization)
    model = policy(tiny, quantization=quantization, trunk=True)
    for one, other in zip(plain.trained()[POLICY], model.trained()[POLICY], strict=True):
        assert torch.equal(one, other)
    filled = annotate(model, None, ragged_pairs(), BOTH)
    want = annotate(plain, None, ragged_pairs(), Needs(behaviour=True))
    assert torch.equal(filled.chosen.behaviour_NT, want.chosen.behaviour_NT)
    accumulate(plain, NoCritic(Config()), {"batch": ragged_pairs()})
    accumulate(model, PolicyAlone(Config()), {"batch": ragged_pairs()})
    for one, other in zip(plain.trained()[POLICY], model.trained()[POLICY], strict=True):
        assert torch.equal(one.grad, other.grad)
    assert model.trained()[CRITIC][0].grad is None


def test_behaviour_and_values_come_from_one_pass(tiny):
    model = shared(tiny)
    passes = []
    forward_of_base = model.base.base_model.register_forward_pre_hook(
        lambda module, given, named: passes.append(model.roles.active), with_kwargs=True
    )
    batch = annotate(model, None, ragged_pairs(), BOTH)
    assert passes == [POLICY]
    (order,) = model.cut(batch)
    batch = batch[order]
    with model.role(POLICY):
        live = forward(model, batch, BOTH)
    forward_of_base.remove()
    for name in batch.sequences:
        assert torch.equal(batch.sequences[name].behaviour_NT, live.sequences[name].policy_NT)
        assert torch.equal(batch.sequences[name].values_NT, live.sequences[name].values_NT)


def test_values_of_a_critic_with_an_adapter_take_a_pass_of_their_own(tiny):
    model = policy(tiny, scalar=(CRITIC,))
    passes = []
    model.base.base_model.register_forward_pre_hook(
        lambda module, given, named: passes.append(model.roles.active), with_kwargs=True
    )
    annotate(model, None, ragged_pairs(), replace(BOTH, trunk_values=False))
    assert passes == [POLICY, CRITIC]


def test_the_value_term_reaches_the_head_and_the_policy_s_adapter(tiny):
    model = shared(tiny)
    accumulate(model, PolicyAlone(Config()), {"batch": ragged_pairs()})
    alone = [p.grad.clone() for p in model.trained()[POLICY]]
    accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
    assert float(model.trained()[CRITIC][0].grad.norm()) > 1e-3
    assert any(
        not torch.equal(p.grad, one) for p, one in zip(model.trained()[POLICY], alone, strict=True)
    )


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_checkpointing_changes_no_gradient(tiny, quantization):
    grads = []
    for checkpointing in (False, True):
        model = shared(tiny, quantization=quantization, checkpointing=checkpointing)
        accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
        grads.append(gradient(model))
    assert relative(grads[1], grads[0]) < 1e-6


@pytest.mark.parametrize("share", [False, True])
def test_micro_batches_and_sharing_change_no_gradient(tiny, share):
    model = shared(tiny)
    accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
    whole = gradient(model)
    model.micro_tokens, model.share = 1, share
    accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
    assert relative(gradient(model), whole) < 1e-5


def test_the_reference_has_no_values(tiny):
    model = shared(tiny)
    with model.role(REFERENCE), torch.no_grad():
        filled = model.forward(ragged_pairs().sequences, BOTH)
    assert filled["chosen"].maybe_values_NT is None


def test_a_policy_without_an_adapter_may_have_the_head_too(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    roles = Roles(load_base(config, DEVICE), None, trunk=True)
    model = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
    assert float(model.trained()[CRITIC][0].grad.norm()) > 0
    assert not any(p is model.trained()[CRITIC][0] for p in model.trained()[POLICY])


def test_the_head_has_no_forward_of_its_own(tiny):
    with pytest.raises(ValueError, match="give its terms the role 'policy'"):  # noqa: SIM117
        with shared(tiny).role(CRITIC):
            pass


def test_what_is_saved_is_the_head_and_is_no_reward_model(tiny, tmp_path):
    model = shared(tiny)
    model.roles.save(CRITIC, tmp_path / "critic", str(tiny))
    saved = load_file(tmp_path / "critic" / VALUE_HEAD)
    assert torch.equal(saved["weight"], model.trained()[CRITIC][0])
    with pytest.raises(UserError, match="critic's head on the policy's own states"):
        reward_members(tmp_path / "critic", Plugins())


class OneOfTwo(Processes):
    """A process that is told of no other, and notes which gradients it would exchange."""

    count = 2

    def __init__(self, rank):
        self.rank = rank
        self.exchanged = []

    def sum_gradients(self, parameters):
        self.exchanged = list(parameters)


def test_processes_exchange_the_gradient_of_the_head_too(tiny):
    model = shared(tiny)
    accumulate(model, Shared(Config()), {"batch": ragged_pairs()})
    whole, parts = gradient(model), []
    for rank in (0, 1):
        process = OneOfTwo(rank)
        accumulate(model, Shared(Config()), {"batch": ragged_pairs()}, process)
        parts.append(gradient(model))
        wanted = [p for group in model.trained().values() for p in group]
        assert {id(p) for p in process.exchanged} == {id(p) for p in wanted}
    assert relative(sum(parts), whole) < 1e-5
