"""Engines sample from the policy as it is, and leave it as it was."""

from __future__ import annotations

import hashlib

import pytest
import torch
from tiny import gradient, perturb, policy, ragged_pairs, save_tiny
from worlds import World

from trimtab import Needs
from trimtab.core.columns import annotate
from trimtab.core.config import RESHAPING, ModelConfig
from trimtab.core.engine import EngineSetting
from trimtab.core.errors import UserError
from trimtab.core.gradient import accumulate
from trimtab.core.paths import absolute
from trimtab.core.policy import POLICY
from trimtab.core.runfile import load
from trimtab.core.sampling import as_sequences, uniforms
from trimtab.core.scratch import plain_copy
from trimtab.objectives.dpo import DPO
from trimtab.plugins.engines.transformers import TransformersEngine
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.registry import Plugins

PROMPTS = [[5, 6, 7], [5, 6, 7], [8, 9], [8, 9]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world"))


def engine(model, **options):
    made = TransformersEngine(TransformersEngine.options(**options))
    made.open(EngineSetting(ModelConfig(), model, None, frozenset({2})))
    return made


def drawn(engine, width=8, temperature=0.7):
    return engine.sample(PROMPTS, uniforms(3, 1, range(4), width), temperature=temperature)


def weights(model):
    digest = hashlib.sha256()
    for name, held in model.base.state_dict().items():
        digest.update(name.encode())
        if isinstance(held, torch.Tensor):
            digest.update(held.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def recomputed(model, completions, temperature=0.7):
    rows = as_sequences(completions, temperature=temperature)
    with model.role(POLICY), torch.no_grad():
        return rows, model.forward({"r": rows}, Needs())["r"].policy_NT


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_exact_log_probs_are_those_of_training(tiny, quantization):
    model = policy(tiny, quantization=quantization)
    rows, logps_NT = recomputed(model, drawn(engine(model)))
    assert float((rows.sampled_NT - logps_NT).abs().max()) < 1e-4


@pytest.mark.parametrize("precision", ["exact", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_sampling_changes_no_weight_and_no_gradient(tiny, quantization, precision):
    model = policy(tiny, quantization=quantization)
    reference, objective = AdapterOff(AdapterOffConfig()), DPO(DPO.options())
    batch = annotate(model, reference, ragged_pairs(), objective.needs)
    accumulate(model, objective, {"batch": batch})
    before, held = gradient(model), weights(model)
    drawn(engine(model, precision=precision))
    assert weights(model) == held
    assert all(module.training for module in model.base.modules())
    accumulate(model, objective, {"batch": batch})
    assert torch.equal(gradient(model), before)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_a_plain_copy_is_the_policy(tiny, quantization):
    """In float32, where only the order of sums differs; int8 also rounds what it multiplies."""
    model = policy(tiny, quantization=quantization)
    ids = torch.tensor([[5, 6, 7, 8]])
    with model.role(POLICY), torch.no_grad():
        want = model.base(ids).logits
    made = plain_copy(model.base, [POLICY], torch.float32)
    with torch.no_grad():
        got = made(ids).logits
    tolerance = 0.05 * float(want.std()) if quantization == "int8" else 1e-4
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert not any("lora" in name or p.requires_grad for name, p in made.named_parameters())


def test_the_copy_follows_the_policy(tiny):
    model = policy(tiny)
    sampler = engine(model, precision="bfloat16")
    first = drawn(sampler)
    copied = sampler._copy
    assert drawn(sampler) == first and sampler._copy is copied
    perturb(model.roles, 0.3, seed=9)
    assert drawn(sampler) != first and sampler._copy is not copied
    perturb(model.roles, 0.3, seed=1)
    assert drawn(engine(model, precision="bfloat16", keep_copy=False)) == first


def test_the_copy_says_its_own_log_probs(tiny):
    """They are near the policy's, and not the same: that is what importance weights are for."""
    model = policy(tiny, spread=0.1)
    rows, logps_NT = recomputed(model, drawn(engine(model, precision="bfloat16")))
    error = (rows.sampled_NT - logps_NT).abs().max()
    assert 1e-4 < float(error) < 0.5


def test_a_copy_that_is_not_kept_is_freed(tiny):
    sampler = engine(policy(tiny), precision="bfloat16", keep_copy=False)
    drawn(sampler)
    assert sampler._copy is None


ENGINE = """
from pathlib import Path
from typing import Annotated
from trimtab import Config, hookimpl
from trimtab.core.engine import Engine
from trimtab.core.options import LocalPath

class Options(Config):
    table: Annotated[str, LocalPath()]

class FromTable(Engine[Options]):
    name = "acme.table"
    options = Options
    def sample(self, prompts, uniform_NT, *, temperature):
        return []

@hookimpl
def provide_engines():
    return [FromTable]
"""


def test_paths_of_engines_and_streams_are_kept_absolute(world, monkeypatch):
    (world.home / "engine.py").write_text(ENGINE)
    (world.home / "table.txt").write_text("")
    monkeypatch.chdir(world.home)
    plugins = Plugins()
    file = world.file(
        world.home / "run.yaml",
        plugins=["engine.py"],
        rollout={"engine": {"name": "acme.table", "table": "table.txt"}},
        streams={"extra": {"data": {"train": "demonstrations.jsonl"}}},
    )
    run = absolute(load(file, (), plugins).stages[0].run, plugins)
    assert run.rollout.engine.options == {"table": str(world.home / "table.txt")}
    assert run.rollout.max_new_tokens == 4
    assert run.streams["extra"].data.train == str(world.demonstrations)


@pytest.mark.parametrize("name", sorted(RESHAPING))
def test_samplers_that_draw_from_another_distribution_are_refused(name, world, tmp_path):
    file = world.file(tmp_path / "run.yaml", rollout={"max_new_tokens": 4, name: 1})
    line = 1 + next(i for i, text in enumerate(file.read_text().splitlines()) if name in text)
    with pytest.raises(UserError) as refused:
        load(file, (), Plugins())
    assert str(refused.value) == (
        f"{file}:{line}: rollout.{name}: this draws from another distribution than the policy's, "
        "and no log-prob of training would be that of what was drawn: use temperature, which is "
        "in all of them"
    )


def test_an_engines_options_are_checked(world, tmp_path):
    engine = {"name": "transformers", "precison": "exact"}
    file = world.file(tmp_path / "run.yaml", rollout={"engine": engine})
    with pytest.raises(UserError, match=r"rollout.engine.precison: .*Did you mean 'precision'"):
        load(file, (), Plugins())
