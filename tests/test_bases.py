"""One base for all the runs of a process: what is lent comes back as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import yaml
from tiny import DEVICE, gradient, ragged_pairs, save_tiny
from worlds import differences

from trimtab import Needs
from trimtab.core import bases as lending
from trimtab.core.bases import Bases
from trimtab.core.columns import annotate
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.model import checkpoints, load_base, weights_hash
from trimtab.core.pipeline import start
from trimtab.core.policy import POLICY
from trimtab.core.processes import Processes
from trimtab.core.roles import Roles
from trimtab.core.runfile import load
from trimtab.objectives.dpo import DPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.registry import Plugins


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def section(tiny, quantization="none", **more):
    return ModelConfig(
        name=str(tiny), quantization=quantization, adapter=AdapterConfig(rank=4), **more
    )


def model_on(base, **more):
    roles = Roles(base, AdapterConfig(rank=4), **more)
    return LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)


def train(base, steps=2):
    """A policy and a critic trained a little on the base; the gradient of the last step."""
    model = model_on(base, scalar=("critic",))
    model.check_head()
    objective, reference = DPO(DPO.options()), AdapterOff(AdapterOffConfig())
    optimizer = torch.optim.AdamW(model.roles.parameters(POLICY), lr=0.05)
    for _ in range(steps):
        batch = annotate(model, reference, ragged_pairs(), objective.needs)
        accumulate(model, objective, {"batch": batch})
        optimizer.step()
    return gradient(model)


def logits(base):
    with torch.no_grad():
        return base(torch.tensor([[5, 6, 7, 8]], device=DEVICE)).logits


@pytest.mark.parametrize(
    "quantization, checkpointing",
    [("none", False), ("none", True), ("nf4", True), ("int8", False)],
)
def test_a_base_comes_back_as_it_was_lent(tiny, quantization, checkpointing):
    config = section(tiny, quantization, gradient_checkpointing=checkpointing)
    fresh = load_base(config, DEVICE)
    want, held, state = logits(fresh), weights_hash(fresh), list(fresh.state_dict())
    expected = train(fresh)
    bases = Bases()
    base = bases.lend(config, DEVICE)
    assert torch.equal(train(base), expected)
    bases.take_back()
    again = bases.lend(section(tiny, quantization), DEVICE)
    assert again is base and not checkpoints(base)
    assert list(base.state_dict()) == state and weights_hash(base) == held
    assert torch.equal(logits(base), want)
    assert base.training and not any(p.requires_grad for p in base.parameters())
    assert not any("peft" in name or name == "score" for name in vars(base))
    bases.take_back()
    second = bases.lend(config, DEVICE)
    assert second is base and torch.equal(train(second), expected)


def test_another_base_is_loaded_when_the_first_is_gone(tiny, tmp_path, monkeypatch):
    alive = []

    def load(config, place):
        gc.collect()
        alive.append([ref() for ref in refs if ref() is not None])
        base = load_base(config, place)
        refs.append(weakref.ref(base))
        return base

    refs = []
    monkeypatch.setattr(lending, "load_base", load)
    bases = Bases()
    model = model_on(bases.lend(section(tiny), DEVICE))
    logits(model.base)
    del model
    bases.take_back()
    bases.lend(section(tiny, "nf4"), DEVICE)
    bases.take_back()
    bases.lend(section(save_tiny(tmp_path / "other", vocab_size=256)), DEVICE)
    assert alive == [[], [], []] and len(refs) == 3


def test_a_base_whose_weights_were_trained_is_not_lent_on(tiny):
    bases = Bases()
    config = ModelConfig(name=str(tiny), quantization="none", adapter=None)
    base = bases.lend(config, DEVICE)
    Roles(base, None)
    bases.take_back()
    assert bases.lend(config, DEVICE) is not base


def test_a_base_that_somebody_changed_is_not_lent_on(tiny):
    bases = Bases()
    for change in (
        lambda base: base.lm_head.weight.data_ptr() and base.model.norm.weight.mul_(2.0),
        lambda base: base.model.layers[0].register_forward_hook(lambda *_: None),
        lambda base: setattr(base.config, "rms_norm_eps", 0.5),
        lambda base: setattr(base.model, "norm", torch.nn.Identity()),
    ):
        base = bases.lend(section(tiny), DEVICE)
        change(base)
        bases.take_back()
        assert bases.lend(section(tiny), DEVICE) is not base
        bases.take_back()


def test_a_base_that_was_not_given_back_is_not_lent_twice(tiny):
    bases = Bases()
    first = bases.lend(section(tiny), DEVICE)
    assert bases.lend(section(tiny), DEVICE) is not first


def test_log_probs_on_a_base_that_was_lent_before(tiny):
    def logps(base):
        model = model_on(base)
        with model.role(POLICY), torch.no_grad():
            return model.forward(ragged_pairs().sequences, Needs())["chosen"].policy_NT

    bases, config = Bases(), section(tiny, "nf4")
    train(bases.lend(config, DEVICE))
    bases.take_back()
    assert torch.equal(logps(bases.lend(config, DEVICE)), logps(load_base(config, DEVICE)))


def staged(world, path):
    """Demonstrations, then a reward model, then PPO from the one by the other; the directory."""
    shared = world.settings(train={"epochs": None, "steps": 1})
    for section in ("data", "objective"):
        del shared[section]
    pairs = world.settings()
    learn = world.learning("ppo")
    last = {
        "name": "reinforce",
        "data": learn["data"],
        "objective": learn["objective"],
        "rollout": learn["rollout"],
        "model": {"start": "stages.imitate"},
        "reward": [{"name": "reward_model", "from": "stages.judge"}],
    }
    stages = [
        {"name": "imitate", **world.demonstrating()},
        {"name": "judge", "data": pairs["data"], "objective": {"name": "reward_model"}},
        last,
    ]
    path.with_suffix(".yaml").write_text(yaml.safe_dump({**shared, "stages": stages}))
    plan = load(path.with_suffix(".yaml"), (), Plugins())
    return start(plan, path, Plugins(), Processes())


@pytest.fixture()
def loads(monkeypatch):
    """The bases that were loaded, in order."""
    made = []

    def counted(config, place):
        made.append(config.name)
        return load_base(config, place)

    monkeypatch.setattr(lending, "load_base", counted)
    return made


@pytest.mark.slow
def test_a_pipeline_on_one_base_ends_with_the_bits_of_fresh_ones(
    world, tmp_path, loads, monkeypatch
):
    shared = staged(world, tmp_path / "shared")
    assert len(loads) == 1
    monkeypatch.setattr(Bases, "take_back", Bases.drop)
    fresh = staged(world, tmp_path / "fresh")
    assert len(loads) == 4
    names = ("imitate", "judge", "reinforce")
    found = [
        name
        for stage in names
        for name in differences(shared / "stages" / stage, fresh / "stages" / stage)
        if name.endswith((".safetensors", "evals.jsonl", "metrics.jsonl", "samples.jsonl"))
    ]
    assert found == []


def test_a_run_that_fails_gives_its_base_back(world, tmp_path, monkeypatch):
    given = []
    take_back = Bases.take_back

    def counted(self):
        given.append(self)
        take_back(self)

    monkeypatch.setattr(Bases, "take_back", counted)
    with pytest.raises(UserError, match="holds no PEFT adapter"):
        file = world.file(tmp_path / "run.yaml", model={"start": str(tmp_path)})
        start(load(file, (), Plugins()), tmp_path / "run", Plugins(), Processes())
    assert len(given) == 1 and not given[0]._lent
    assert given[0].lend(section(world.model), DEVICE) is given[0]._base
