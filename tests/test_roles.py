"""Roles share a base and nothing else."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from tiny import DEVICE, gradient, policy, ragged_pairs, relative, save_tiny
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab import Config, Loss, Needs, Objective, Pairs, Term
from trimtab.core.columns import annotate
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.finished import load_scorer
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.roles import Roles
from trimtab.core.scoring import scores
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.registry import Plugins


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def logps(model, role):
    with model.role(role), torch.no_grad():
        return model.forward(ragged_pairs().sequences, Needs())["chosen"].policy_NT


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_reference_is_bit_equal_to_the_base_that_was_never_wrapped(tiny, quantization):
    config = ModelConfig(name=str(tiny), quantization=quantization)
    bare = LanguageModel(
        Roles(load_base(config, DEVICE), None, frozen=True), dtype=torch.float32, micro_tokens=4096
    )
    wrapped = policy(tiny, quantization=quantization)
    assert torch.equal(logps(wrapped, REFERENCE), logps(bare, POLICY))
    assert not torch.equal(logps(wrapped, POLICY), logps(bare, POLICY))


class TwoRoles(Objective[Pairs, Config]):
    """A policy term and a critic term."""

    terms = (Term("loss"), Term("value", role="critic", weight="tokens"))

    def loss(self, batch):
        return Loss(-batch.chosen.policy_NT.sum(-1))

    def value(self, batch):
        return Loss((batch.chosen.values_NT - 1).square())


class PolicyAlone(TwoRoles):
    """Only the first."""

    terms = (Term("loss"),)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_each_role_gets_the_gradient_of_its_own_terms(tiny, quantization, checkpointing):
    model = policy(
        tiny, quantization=quantization, checkpointing=checkpointing, scalar=("critic",)
    )
    batch = {"batch": ragged_pairs()}
    accumulate(model, TwoRoles(Config()), batch)
    both = {role: [p.grad for p in ps] for role, ps in model.trained().items()}
    assert set(both) == {POLICY, "critic"}
    assert all(g is not None and float(g.norm()) > 0 for grads in both.values() for g in grads)
    accumulate(model, PolicyAlone(Config()), batch)
    for one, other in zip(model.trained()[POLICY], both[POLICY], strict=True):
        assert torch.equal(one.grad, other)
    assert all(p.grad is None for p in model.trained()["critic"])


def test_micro_batches_do_not_change_the_gradient_of_any_role(tiny):
    model, batch = policy(tiny, scalar=("critic",)), {"batch": ragged_pairs()}
    accumulate(model, TwoRoles(Config()), batch)
    whole = gradient(model)
    model.micro_tokens = 1
    accumulate(model, TwoRoles(Config()), batch)
    assert relative(gradient(model), whole) < 1e-5


def test_policy_reloads_bit_equal_in_plain_peft(tiny, tmp_path):
    model = policy(tiny)
    model.roles.save(POLICY, tmp_path / "out", str(tiny))
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path / "out")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.role(POLICY):
        assert torch.equal(plain(ids).logits, model.base(ids).logits)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_scalar_role_reloads_bit_equal_as_a_plain_classifier(tiny, tmp_path):
    model = policy(tiny, scalar=("critic",))
    model.roles.save("critic", tmp_path / "out", str(tiny))
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    plain = PeftModel.from_pretrained(base, tmp_path / "out")
    prompt = [5, 6, 7, 8]
    with torch.no_grad(), model.role("critic"):
        hidden = model.base.base_model(torch.tensor([prompt])).last_hidden_state
        got = model.base.score(hidden)[0, -1, 0]
        want = plain(torch.tensor([prompt])).logits[0, 0]
    assert torch.equal(got, want)


def test_start_becomes_policy_and_reference(tiny, tmp_path):
    first = policy(tiny)
    first.roles.save(POLICY, tmp_path / "start", str(tiny))
    model = policy(tiny, spread=0.0)
    model.roles.start_from(tmp_path / "start")
    assert torch.equal(logps(model, POLICY), logps(first, POLICY))
    assert torch.equal(logps(model, REFERENCE), logps(first, POLICY))
    with torch.no_grad():
        model.trained()[POLICY][0].add_(0.1)
    assert torch.equal(logps(model, REFERENCE), logps(first, POLICY))
    assert not torch.equal(logps(model, POLICY), logps(first, POLICY))
    assert all(p.requires_grad for p in model.trained()[POLICY])


def test_start_of_another_rank_is_refused(tiny, tmp_path):
    policy(tiny, rank=8).roles.save(POLICY, tmp_path / "start", str(tiny))
    with pytest.raises(UserError, match="rank 8 on"):
        policy(tiny, rank=4).roles.start_from(tmp_path / "start")


def test_start_that_is_not_finite_is_refused(tiny, tmp_path):
    model = policy(tiny)
    with torch.no_grad():
        model.trained()[POLICY][3][0, 0] = torch.nan
    model.roles.save(POLICY, tmp_path / "start", str(tiny))
    with pytest.raises(UserError, match="is not finite"):
        policy(tiny).roles.start_from(tmp_path / "start")


def test_a_missing_start_is_refused(tiny, tmp_path):
    with pytest.raises(UserError, match="holds no PEFT adapter"):
        policy(tiny).roles.start_from(tmp_path)


def test_targets_that_do_not_exist_are_refused(tiny):
    config = ModelConfig(name=str(tiny), quantization="none")
    with pytest.raises(UserError, match="model.adapter does not fit"):
        Roles(load_base(config, DEVICE), AdapterConfig(targets=["nowhere"]))


def test_full_training_has_no_adapter_to_turn_off(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    roles = Roles(load_base(config, DEVICE), None)
    with pytest.raises(UserError, match="reference: {name: model}"), roles.role(REFERENCE):
        pass
    assert all(p.requires_grad for p in roles.parameters(POLICY))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_float32_whatever_the_base(tiny, dtype):
    model = policy(tiny, dtype=dtype, quantization="nf4")
    assert {p.dtype for p in model.trained()[POLICY]} == {torch.float32}


def test_dropout_is_on_in_passes_with_gradient_only(tiny):
    config = ModelConfig(name=str(tiny), quantization="none")
    roles = Roles(load_base(config, DEVICE), AdapterConfig(rank=4, dropout=0.5))
    model = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    with torch.no_grad():
        for name, parameter in roles.named_parameters(POLICY).items():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    batch = ragged_pairs().sequences
    with model.role(POLICY):
        with torch.no_grad():
            quiet = [model.forward(batch, Needs())["chosen"].policy_NT for _ in range(2)]
        noisy = [model.forward(batch, Needs())["chosen"].policy_NT for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*noisy)


FROZEN = "reward_1"


@pytest.fixture(scope="module")
def reward(tiny, tmp_path_factory):
    """The adapter of a reward model, with a head of its own."""
    folder = tmp_path_factory.mktemp("reward")
    model = policy(tiny, scalar=("reward",), language=False, seed=7, rank=8)
    model.roles.save("reward", folder, str(tiny))
    return folder


def scored(model, role):
    return scores(model, ragged_pairs(), role)


def with_gradient(model):
    """All of the policy's and the critic's parameters, after a step of both."""
    accumulate(model, TwoRoles(Config()), {"batch": ragged_pairs()})
    return gradient(model)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_frozen_role_changes_no_gradient_of_the_trained_ones(
    tiny, reward, quantization, checkpointing
):
    """Neither by being there, nor by scoring between two updates."""
    held = {"quantization": quantization, "checkpointing": checkpointing, "scalar": ("critic",)}
    want = with_gradient(policy(tiny, **held))
    model = policy(tiny, **held, frozen_roles={FROZEN: reward})
    assert torch.equal(with_gradient(model), want)
    scored(model, FROZEN)
    annotate(model, AdapterOff(AdapterOffConfig()), ragged_pairs(), Needs(reference=True))
    scored(model, FROZEN)
    assert torch.equal(with_gradient(model), want)
    assert float(want.norm()) > 1e-3
    assert all(module.training for module in model.base.modules())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_frozen_role_scores_as_it_does_alone_on_this_base(tiny, reward, quantization):
    config = ModelConfig(name=str(tiny), quantization=quantization)
    roles = Roles.loaded(load_base(config, DEVICE), {FROZEN: reward})
    alone = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    want = scored(alone, FROZEN)
    for more in ({}, {"scalar": ("critic",)}):
        model = policy(tiny, quantization=quantization, frozen_roles={FROZEN: reward}, **more)
        got = scored(model, FROZEN)
        for name in want:
            assert torch.equal(got[name], want[name])
            assert len(set(want[name].tolist())) == 6
    if quantization == "none":
        found = load_scorer(reward, Plugins()).score(ragged_pairs())
        assert all(torch.equal(found[name].members_RN[0], want[name]) for name in want)


def test_a_frozen_role_is_read_only(tiny, reward, tmp_path):
    """It needs no gradient even while it is active, and is neither optimised nor saved."""
    model = policy(tiny, frozen_roles={FROZEN: reward})
    roles = model.roles
    assert roles.names == [POLICY] and set(model.trained()) == {POLICY}
    before = roles.adapter_hash(FROZEN)
    with model.role(FROZEN):
        assert not any(parameter.requires_grad for parameter in model.base.parameters())
    with model.role(POLICY):
        wanted = [p for p in model.base.parameters() if p.requires_grad]
        assert {id(p) for p in wanted} == {id(p) for p in model.trained()[POLICY]}
        with model.role(FROZEN):
            pass
        assert all(p.requires_grad for p in model.trained()[POLICY])
    accumulate(model, PolicyAlone(Config()), {"batch": ragged_pairs()})
    torch.optim.AdamW(model.trained()[POLICY], lr=0.1).step()
    assert roles.adapter_hash(FROZEN) == before
    roles.save(POLICY, tmp_path / "out", str(tiny))
    assert '"score"' not in (tmp_path / "out" / "adapter_config.json").read_text()


def test_a_frozen_policy_of_another_run_gives_its_own_log_probs(tiny, tmp_path):
    other = policy(tiny, seed=3, spread=0.4)
    other.roles.save(POLICY, tmp_path / "other", str(tiny))
    model = policy(tiny, frozen_roles={"teacher": tmp_path / "other"})
    assert torch.equal(logps(model, "teacher"), logps(other, POLICY))
    assert not torch.equal(logps(model, POLICY), logps(other, POLICY))


def test_the_reference_is_the_base_beside_a_frozen_role_too(tiny, reward):
    config = ModelConfig(name=str(tiny), quantization="none")
    bare = Roles(load_base(config, DEVICE), None, frozen=True)
    model = policy(tiny, frozen_roles={FROZEN: reward})
    scored(model, FROZEN)
    want = logps(LanguageModel(bare, dtype=torch.float32, micro_tokens=4096), POLICY)
    assert torch.equal(logps(model, REFERENCE), want)
    scored(model, FROZEN)
    assert torch.equal(logps(model, REFERENCE), want)


def test_a_frozen_adapter_that_does_not_fit_is_refused(tiny, tmp_path):
    wide = save_tiny(tmp_path / "wide", hidden_size=128)
    policy(wide).roles.save(POLICY, tmp_path / "adapter", str(wide))
    with pytest.raises(UserError, match="does not fit this model"):
        policy(tiny, frozen_roles={"other": tmp_path / "adapter"})


def test_a_base_that_is_trained_itself_has_no_frozen_roles(tiny, reward):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    with pytest.raises(UserError, match="model.adapter"):
        Roles(load_base(config, DEVICE), None, frozen_roles={FROZEN: reward})


def test_a_critic_may_start_at_zero_and_the_policy_is_the_same(tiny):
    plain = policy(tiny, scalar=("critic",), perturbed=False)
    zero = policy(tiny, scalar=("critic",), perturbed=False, zero_heads=["critic"])
    heads = [
        model.roles.named_parameters("critic")["base_model.model.score.modules_to_save.weight"]
        for model in (plain, zero)
    ]
    assert float(heads[0].norm()) > 0.5 and not heads[1].any()
    for one, other in zip(plain.trained()[POLICY], zero.trained()[POLICY], strict=True):
        assert torch.equal(one, other)
    accumulate(zero, TwoRoles(Config()), {"batch": ragged_pairs()})
    assert float(heads[1].grad.norm()) > 0
