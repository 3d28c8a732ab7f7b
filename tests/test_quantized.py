"""Nothing that runs between two updates may harm the gradient of a quantized base."""

from __future__ import annotations

import pytest
import torch
from tiny import gradient, policy, ragged_pairs, relative, save_tiny

from trimtab import Needs
from trimtab.core.columns import annotate
from trimtab.core.config import RolloutConfig
from trimtab.core.evaluation import evaluate
from trimtab.core.gradient import accumulate
from trimtab.core.model import load_tokenizer
from trimtab.core.policy import POLICY
from trimtab.core.sampling import sample, uniforms
from trimtab.objectives.dpo import DPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

REFERENCE = AdapterOff(AdapterOffConfig())
OBJECTIVE = DPO(DPO.options())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def reference_pass(model, folder):
    annotate(model, REFERENCE, ragged_pairs(), Needs(reference=True))


def generation(model, folder):
    with model.role(POLICY):
        sample(model, [[5, 6, 7], [8]], uniforms(0, 0, range(2), 5), stops=frozenset({2}))


def evaluation(model, folder):
    evaluate(
        model,
        OBJECTIVE,
        REFERENCE,
        REFERENCE,
        ragged_pairs(seed=9),
        tokenizer=load_tokenizer(str(folder)),
        stops=frozenset({2}),
        rollout=RolloutConfig(max_new_tokens=4),
        samples=2,
        seed=0,
    )


@pytest.mark.parametrize("between", [reference_pass, generation, evaluation])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_gradient_survives(tiny, quantization, checkpointing, between):
    model = policy(tiny, quantization=quantization, checkpointing=checkpointing)
    batch = annotate(model, REFERENCE, ragged_pairs(), OBJECTIVE.needs)
    accumulate(model, OBJECTIVE, {"batch": batch})
    before = gradient(model)
    between(model, tiny)
    accumulate(model, OBJECTIVE, {"batch": batch})
    assert float(before.norm()) > 1e-3
    assert torch.equal(gradient(model), before)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_gradient_survives_a_start_from_an_adapter(tiny, quantization, tmp_path):
    """PEFT calls eval() when it loads one."""
    policy(tiny, quantization=quantization).roles.save(POLICY, tmp_path / "start", str(tiny))
    model = policy(tiny, quantization=quantization, spread=0.0)
    model.roles.start_from(tmp_path / "start")
    assert all(module.training for module in model.base.modules())
    model.check_head()
    reference_pass(model, tiny)
    batch = annotate(model, REFERENCE, ragged_pairs(), OBJECTIVE.needs)
    accumulate(model, OBJECTIVE, {"batch": batch})
    fresh = policy(tiny, quantization=quantization)
    accumulate(fresh, OBJECTIVE, {"batch": batch})
    assert torch.equal(gradient(model), gradient(fresh))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_recomputation_changes_nothing(tiny, quantization):
    grads = []
    for checkpointing in (False, True):
        model = policy(tiny, quantization=quantization, checkpointing=checkpointing)
        batch = annotate(model, REFERENCE, ragged_pairs(), OBJECTIVE.needs)
        accumulate(model, OBJECTIVE, {"batch": batch})
        grads.append(gradient(model))
    assert relative(grads[1], grads[0]) < 1e-6


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_base_is_quantized_and_in_train_mode(tiny, quantization):
    """Without either, this file would test nothing."""
    model = policy(tiny, quantization=quantization)
    assert model.base.training and all(m.training for m in model.base.modules())
    quantized = [m for m in model.base.modules() if "bit" in type(m).__name__]
    assert quantized, "the base is not quantized, so this file tests nothing"
