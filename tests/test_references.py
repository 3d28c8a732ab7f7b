"""References that move, and the one that is not there."""

from __future__ import annotations

import pytest
import torch
import warm
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny import DEVICE, gradient, perturb, policy, ragged_pairs, save_tiny
from worlds import differences, lines

from trimtab import Needs
from trimtab.core.columns import annotate
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.model import load_base
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.roles import Roles
from trimtab.objectives.dpo import DPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.references.moving import Moving, MovingConfig
from trimtab.plugins.registry import Plugins

OFF = AdapterOff(AdapterOffConfig())
WITH = ModelConfig(quantization="none", adapter=AdapterConfig(rank=4))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def moving(model, **options):
    reference = Moving(MovingConfig(**options))
    reference.open(WITH, model)
    return reference


def by_reference(model, reference):
    return reference.logps(model, ragged_pairs().sequences)["chosen"]


def by_policy(model):
    with model.role(POLICY), torch.no_grad():
        return model.forward(ragged_pairs().sequences, Needs())["chosen"].policy_NT


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_it_begins_as_the_base_to_the_bit(tiny, quantization):
    model = policy(tiny, quantization=quantization, spread=0.0)
    want = by_reference(model, OFF)
    reference = moving(model, every=1)
    assert torch.equal(by_reference(model, reference), want)
    with torch.no_grad():
        model.trained()[POLICY][1].add_(0.1)
    assert torch.equal(by_reference(model, reference), want)


def test_it_begins_as_the_start_to_the_bit(tiny, tmp_path):
    policy(tiny).roles.save(POLICY, tmp_path / "start", str(tiny))
    model = policy(tiny, spread=0.0)
    model.roles.start_from(tmp_path / "start")
    want = by_reference(model, OFF)
    assert torch.equal(by_reference(model, moving(model, every=1)), want)
    assert torch.equal(by_policy(model), want)


def test_it_becomes_the_policy_every_so_many_batches(tiny):
    model = policy(tiny, spread=0.0)
    reference = moving(model, every=3)
    began = by_reference(model, reference)
    perturb(model.roles, 0.3)
    for batch in range(1, 7):
        reference.advance(model)
        same = torch.equal(by_reference(model, reference), by_policy(model))
        assert same == (batch in (3, 4, 6))
        if batch < 3:
            assert torch.equal(by_reference(model, reference), began)
        if batch == 4:
            perturb(model.roles, 0.3, seed=5)


def test_it_moves_by_a_share_of_the_way_after_each_batch(tiny):
    model = policy(tiny, spread=0.0)
    reference = moving(model, ema=0.25)
    began = {name: tensor.clone() for name, tensor in reference.tensors(model).items()}
    perturb(model.roles, 0.3)
    now = model.roles.named_parameters(POLICY)
    reference.advance(model)
    reference.advance(model)
    for name, tensor in reference.tensors(model).items():
        want = began[name] * 0.75**2 + now[name] * (1 - 0.75**2)
        assert torch.allclose(tensor, want, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_it_changes_no_gradient(tiny, quantization, checkpointing):
    """While it has not moved, and the log-ratios are the same."""
    grads = []
    for make in (lambda model: OFF, lambda model: moving(model, every=9)):
        model = policy(tiny, quantization=quantization, checkpointing=checkpointing, spread=0.0)
        reference = make(model)
        perturb(model.roles, 0.3)
        objective = DPO(DPO.options())
        batch = annotate(model, reference, ragged_pairs(), objective.needs)
        accumulate(model, objective, {"batch": batch})
        grads.append(gradient(model))
        with model.role(POLICY):
            assert all(p.requires_grad for p in model.trained()[POLICY])
        assert model.roles.names == [POLICY]
    assert torch.equal(*grads)
    assert float(grads[0].norm()) > 1e-3


def test_it_is_restored_to_the_bit(tiny):
    model = policy(tiny)
    reference = moving(model, ema=0.3)
    perturb(model.roles, 0.2, seed=4)
    reference.advance(model)
    saved = {name: tensor.clone() for name, tensor in reference.tensors(model).items()}
    want, document = by_reference(model, reference), reference.document()
    other = policy(tiny)
    again = moving(other, ema=0.3)
    assert not torch.equal(by_reference(other, again), want)
    again.restore(other, saved, document)
    assert torch.equal(by_reference(other, again), want)
    assert again.document() == {"batches": 1}


def test_what_it_says_of_a_row_is_never_cached(tiny):
    model = policy(tiny)
    assert moving(model, every=2).fingerprint(model) is None


def test_it_refuses_a_policy_without_an_adapter(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    model = LanguageModel(
        Roles(load_base(config, DEVICE), None), dtype=torch.float32, micro_tokens=9
    )
    with pytest.raises(UserError, match="model.adapter is null"):
        Moving(MovingConfig(every=1)).open(config, model)


@pytest.mark.parametrize("options", [{}, {"every": 2, "ema": 0.5}])
def test_it_moves_in_one_way(options):
    with pytest.raises(ValidationError, match="one of the two"):
        MovingConfig(**options)


def test_where_the_copy_stands_the_reference_is_never_the_bare_base(tiny):
    """Also when the base was the active role just before the copy was made."""
    model = policy(tiny)
    base = by_reference(model, OFF)
    assert model.roles.active == REFERENCE
    reference = moving(model, every=1)
    assert torch.equal(by_reference(model, reference), by_policy(model))
    assert not torch.equal(by_reference(model, reference), base)


def train(world, home, **changes):
    file = world.file(home / "run.yaml", **changes)
    return warm.trimtab("train", file, "--run", home / "run")


def test_a_run_moves_its_reference_and_keeps_it(world, tmp_path):
    """What a hard update leaves is the policy's adapter of that batch, and log-ratios are 0."""
    ended = train(world, tmp_path, reference={"name": "moving", "every": 2})
    assert ended.status == 0, ended.output
    checkpoints = tmp_path / "run" / "checkpoints"
    last = sorted(checkpoints.iterdir(), key=lambda path: int(path.name.split("-")[1]))[-1]
    reference = load_file(last / "reference.safetensors")
    own = load_file(last / "roles" / "policy.safetensors")
    assert reference.keys() == own.keys()
    assert all(torch.equal(reference[name], own[name]) for name in own)
    steps = lines(tmp_path / "run" / "metrics.jsonl")
    assert [abs(record["logratio_chosen"]) < 1e-6 for record in steps] == [
        True,
        False,
        True,
        False,
    ]
    ended = warm.trimtab("evaluate", tmp_path / "run", "--json")
    assert ended.status == 0, ended.output


def test_a_run_that_needs_a_reference_refuses_none(world, tmp_path):
    ended = train(world, tmp_path, reference={"name": "none"})
    assert ended.status == 2
    assert "needs a reference, and reference is 'none'" in ended.output


def test_a_run_that_needs_no_reference_may_have_none(world, tmp_path):
    changes = {**world.demonstrating(), "reference": {"name": "none"}, "train": {"epochs": 1}}
    ended = train(world, tmp_path, **changes)
    assert ended.status == 0, ended.output
    (tmp_path / "off").mkdir()
    off = train(world, tmp_path / "off", **{**changes, "reference": {"name": "adapter_off"}})
    assert off.status == 0, off.output
    names = differences(tmp_path / "run", tmp_path / "off" / "run")
    assert not [name for name in names if "adapter_model" in name or "roles/policy" in name]


def test_both_are_found_by_name():
    assert {"moving", "none"} <= set(Plugins().names("reference"))
