"""What becomes of the adapter that a run starts from: a copy, a layer below, the base itself."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file
from tiny import DEVICE, perturb, policy, ragged_pairs, save_tiny
from transformers import AutoModelForCausalLM
from worlds import World

from trimtab import Needs
from trimtab.core import merging
from trimtab.core.adapter_files import ADAPTER_CONFIG, WEIGHTS, adapter_folder
from trimtab.core.bases import Bases
from trimtab.core.batches import Demonstrations
from trimtab.core.columns import annotate
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.finished import export, load_model, load_run, policy_of, result, reward_members
from trimtab.core.gradient import accumulate
from trimtab.core.lm import LanguageModel
from trimtab.core.merging import merge_start
from trimtab.core.model import load_base
from trimtab.core.pipeline import start
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.core.processes import Processes
from trimtab.core.roles import Roles
from trimtab.core.runfile import load as load_file_of_runs
from trimtab.core.scratch import plain_copy
from trimtab.objectives.dpo import DPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig
from trimtab.plugins.references.moving import Moving, MovingConfig
from trimtab.plugins.registry import Plugins


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def logps(model, role):
    with model.role(role), torch.no_grad():
        return model.forward(ragged_pairs().sequences, Needs())["chosen"].policy_NT


@torch.no_grad()
def distributions(model, rows):
    """log pi [M, V] of policy and reference at every trained token, and the tokens [M, 1]."""
    found = []
    for role in (POLICY, REFERENCE):
        with model.role(role):
            states_MH, target_M = model.states(rows)
        found.append(model.base.get_output_embeddings()(states_MH).double().log_softmax(-1))
    return *found, target_M[:, None]


def started(tiny, start, how="stack", **more):
    """A run's policy on a saved start, as it is before the first step."""
    model = policy(tiny, spread=0.0, perturbed=False, **more)
    model.roles.start_from(start, how)
    return model


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """A trained policy, and where it is saved."""
    folder = tmp_path_factory.mktemp("first") / "adapter"
    model = policy(tiny, rank=8, seed=3)
    model.roles.save(POLICY, folder, str(tiny))
    return model, folder


def step(model):
    """One large update of the policy by DPO."""
    objective = DPO(DPO.options())
    batch = annotate(model, AdapterOff(AdapterOffConfig()), ragged_pairs(), objective.needs)
    accumulate(model, objective, {"batch": batch})
    torch.optim.AdamW(model.roles.parameters(POLICY), lr=0.1).step()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_stack_begins_at_its_start_to_the_bit(tiny, tmp_path, quantization, checkpointing):
    trained = policy(tiny, rank=8, quantization=quantization)
    trained.roles.save(POLICY, tmp_path / "start", str(tiny))
    more = {"quantization": quantization, "checkpointing": checkpointing}
    model = started(tiny, tmp_path / "start", scalar=("critic",), **more)
    want = logps(trained, POLICY)
    assert torch.equal(logps(model, POLICY), want)
    assert torch.equal(logps(model, REFERENCE), want)
    step(model)
    assert not torch.equal(logps(model, POLICY), want)
    assert torch.equal(logps(model, REFERENCE), want)


def test_only_what_lies_on_top_is_trained(tiny, first):
    model = started(tiny, first[1], rank=4)
    below = [p.clone() for p in model.roles.parameters("below")]
    step(model)
    assert all(p.shape[0] == 4 or p.shape[1] == 4 for p in model.trained()[POLICY])
    assert all(map(torch.equal, below, model.roles.parameters("below")))
    with model.role(POLICY):
        trained = {id(p) for p in model.base.parameters() if p.requires_grad}
    assert trained == {id(p) for p in model.roles.parameters(POLICY)}


TARGETS = {
    "the same": "all-linear",
    "others": ["q_proj", "down_proj"],
    "some paths": r"model\.layers\.1\..*(q_proj|v_proj)",
}


@pytest.mark.parametrize(
    "targets, rank, start",
    [
        ("the same", 4, {"use_rslora": True}),
        ("others", 8, {}),
        ("some paths", 3, {"r": 5}),
    ],
)
def test_the_sum_is_one_plain_adapter(tiny, tmp_path, targets, rank, start):
    """Reloaded by plain peft it gives the same log-probs, and so it does as a start."""
    base = AutoModelForCausalLM.from_pretrained(tiny)
    settings = {"r": 8, "lora_alpha": 24, "target_modules": TARGETS[targets], **start}
    torch.manual_seed(7)
    below = get_peft_model(base, LoraConfig(init_lora_weights=False, **settings))
    below.save_pretrained(tmp_path / "start")
    model = started(tiny, tmp_path / "start", rank=rank)
    step(model)
    want = logps(model, POLICY)
    model.roles.save(POLICY, tmp_path / "sum", str(tiny))
    plain = PeftModel.from_pretrained(load(tiny), tmp_path / "sum", adapter_name=POLICY)
    roles = Roles.loaded(load(tiny), {POLICY: tmp_path / "sum"})
    loaded = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    assert float((logps(loaded, POLICY) - want).abs().max()) < 1e-5
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.role(POLICY):
        assert torch.allclose(plain(ids).logits, model.base(ids).logits, atol=1e-5)
    assert float((logps(started(tiny, tmp_path / "sum"), POLICY) - want).abs().max()) < 1e-5


def load(tiny):
    return load_base(ModelConfig(name=str(tiny), quantization="none"), DEVICE)


def test_a_sum_of_like_scales_is_exact(tiny, first, tmp_path):
    """Every weight of the result is one of either adapter's, to the bit."""
    model = started(tiny, first[1], rank=4)
    step(model)
    model.roles.save(POLICY, tmp_path / "sum", str(tiny))
    made, below = load_file(tmp_path / "sum" / WEIGHTS), load_file(first[1] / WEIGHTS)
    for name, weight in made.items():
        cut = (slice(8), slice(None)) if "lora_A" in name else (slice(None), slice(8))
        assert torch.equal(weight[cut], below[name])
    settings = json.loads((tmp_path / "sum" / ADAPTER_CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"]) == (12, 24)
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {}


def test_a_run_can_continue_from_a_stack(tiny, first, tmp_path):
    model = started(tiny, first[1], rank=4)
    step(model)
    model.roles.save(POLICY, tmp_path / "sum", str(tiny))
    third = started(tiny, tmp_path / "sum", "continue", rank=12)
    assert float((logps(third, POLICY) - logps(model, POLICY)).abs().max()) < 1e-5


def test_a_copy_to_sample_from_has_the_whole_stack(tiny, first):
    model = started(tiny, first[1])
    step(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    copied = plain_copy(model.base, model.roles.adapters(POLICY), torch.float32)
    with torch.no_grad(), model.role(POLICY):
        assert torch.allclose(copied(ids).logits, model.base(ids).logits, atol=1e-4)


def test_a_moving_reference_moves_over_a_stack(tiny, first):
    model = started(tiny, first[1])
    moving = Moving(MovingConfig(every=1))
    moving.open(ModelConfig(name=str(tiny)), model)
    want = logps(first[0], POLICY)
    assert torch.equal(logps(model, REFERENCE), want)
    step(model)
    assert torch.equal(logps(model, REFERENCE), want)
    moving.advance(model)
    assert torch.equal(logps(model, REFERENCE), logps(model, POLICY))
    assert not torch.equal(logps(model, REFERENCE), want)


def test_dropout_leaves_the_start_alone(tiny, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny)
    settings = LoraConfig(
        r=4, target_modules=["q_proj"], lora_dropout=0.9, init_lora_weights=False
    )
    get_peft_model(base, settings).save_pretrained(tmp_path / "start")
    model = started(tiny, tmp_path / "start")
    assert model.dropouts == []
    with model.role(POLICY):
        filled = model.forward(ragged_pairs().sequences, Needs())["chosen"].policy_NT
    assert torch.equal(filled.detach(), logps(model, POLICY))


def test_what_no_stack_can_be_made_of(tiny, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tiny)
    config = LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
    get_peft_model(base, config).save_pretrained(tmp_path / "dora")
    with pytest.raises(UserError, match="is more than LoRA on linear layers"):
        started(tiny, tmp_path / "dora")
    policy(tiny).roles.save(POLICY, tmp_path / "start", str(tiny))
    with pytest.raises(UserError, match="stack is for policies"):
        started(tiny, tmp_path / "start", language=False, scalar=("reward",))


def test_two_stacks_differ_in_their_fingerprints(tiny, first, tmp_path):
    other = policy(tiny, rank=8, seed=3)
    perturb(other.roles, 0.2, seed=5)
    other.roles.save(POLICY, tmp_path / "other", str(tiny))
    one, two = started(tiny, first[1]), started(tiny, tmp_path / "other")
    assert one.roles.adapter_hash(POLICY) != two.roles.adapter_hash(POLICY)
    assert one.roles.adapter_hash(REFERENCE) != two.roles.adapter_hash(REFERENCE)


@pytest.fixture(scope="module")
def plain_world(tmp_path_factory):
    return World.make(tmp_path_factory.mktemp("world"))


def run(world, path, **changes):
    """A run of one step or two in a directory, and that directory."""
    settings = world.settings(**changes)
    file = path.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(settings))
    plan = load_file_of_runs(file, (), Plugins())
    return start(plan, path, Plugins(), Processes())


def on_rows(model, tokenizer):
    ids = tokenizer("Write review 3 of the movie Fargo.", return_tensors="pt").input_ids
    with model.role(POLICY), torch.no_grad():
        return model.base(ids).logits.log_softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_a_start_merged_into_the_base(plain_world, tmp_path, quantization):
    """The run, its reference, its result and what starts from it all stand on the merged base."""
    world, held = plain_world, {"quantization": quantization}
    learning = {"train": {"epochs": 1, "learning_rate": 0.03}}
    one = run(world, tmp_path / "one", model=held, **learning)
    first, tokenizer = load_model(str(one), Plugins())
    on_it = {"start": str(one), "start_as": "merge", **held}
    two = run(world, tmp_path / "two", model=on_it, **learning)
    report = json.loads((two / "merge.json").read_text())
    if quantization == "none":
        assert report["logp_change"] < 1e-5 and report["kl"] < 1e-6
        assert report["weights_off"] < 1e-5 and abs(report["weights_kept"] - 1) < 1e-5
    else:
        assert report["logp_change"] > 0 and 0.3 < report["weights_kept"] < 1.5
    assert report["start_logp_change"] > 0.01
    base = load_base(ModelConfig(name=str(two / "base"), quantization="none"), DEVICE)
    merged = LanguageModel(Roles(base, None, frozen=True), dtype=torch.float32, micro_tokens=512)
    if quantization == "none":
        change = on_rows(merged, tokenizer) - on_rows(first, tokenizer)
        assert float(change.abs().max()) < 1e-4
    evaluated = json.loads((two / "evals.jsonl").read_text().splitlines()[0])
    assert evaluated["margin"]["value"] == 0
    second, _ = load_model(str(two), Plugins())
    parts, *_ = load_run(two, Plugins())
    assert torch.equal(on_rows(parts.model, tokenizer), on_rows(second, tokenizer))
    named = json.loads((two / "adapter" / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    assert named == str(two / "base")
    three = run(world, tmp_path / "three", model={"start": str(two), **held}, **learning)
    evaluated = json.loads((three / "evals.jsonl").read_text().splitlines()[0])
    assert evaluated["margin"]["value"] == 0
    third, _ = load_model(str(three), Plugins())
    on_top = {"start": str(three), "start_as": "merge", **held}
    four = run(world, tmp_path / "four", model=on_top, **learning)
    report = json.loads((four / "merge.json").read_text())
    assert report["base"] == str(two / "base")
    if quantization == "none":
        assert report["logp_change"] < 1e-5
        export(four, tmp_path / "out", Plugins())
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        fourth, _ = load_model(str(four), Plugins())
        ids = torch.tensor([[5, 6, 7, 8]])
        with torch.no_grad(), fourth.role(POLICY):
            assert torch.allclose(plain(ids).logits, fourth.base(ids).logits, atol=1e-4)
        want = on_rows(third, tokenizer)
        moved = (tmp_path / "moved").resolve()
        moved.mkdir()
        for one in (two, three):
            one.rename(moved / one.name)
        again, _ = load_model(str(moved / "three"), Plugins())
        assert torch.equal(on_rows(again, tokenizer), want)


def test_a_start_that_scales_otherwise_is_refused(tiny, first):
    with pytest.raises(UserError, match="scales its update by 2, and alpha / rank is 4 here"):
        Roles(load(tiny), AdapterConfig(rank=8, alpha=32.0)).start_from(first[1])


def test_what_is_no_adapter_is_said_to_be_none(tmp_path):
    made = tmp_path / "made"
    (made / "data").mkdir(parents=True)
    (made / "data" / "train.jsonl").touch()
    with pytest.raises(UserError, match="made a data set, and no adapter"):
        adapter_folder(str(made))
    (tmp_path / "whole" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match="trained all weights"):
        adapter_folder(str(tmp_path / "whole"))


def test_a_reward_model_is_no_start_to_merge(tiny, tmp_path):
    model = policy(tiny, language=False, scalar=("reward",))
    model.roles.save("reward", tmp_path / "start", str(tiny))
    section = ModelConfig(name=str(tiny), start=str(tmp_path / "start"), start_as="merge")
    with pytest.raises(UserError, match="is a reward model"):
        merge_start(section, tmp_path, Bases(), None)
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_a_weight_is_held_as_is_what_the_layer_multiplies_with(tiny, quantization):
    plain = load(tiny).model.layers[0].mlp.up_proj.weight
    config = ModelConfig(name=str(tiny), quantization=quantization)
    layer = load_base(config, DEVICE).model.layers[0].mlp.up_proj
    with torch.no_grad():
        layer(torch.zeros(1, 64, device=DEVICE))
    want = dequantize_module_weight(layer).float().cpu()
    assert torch.equal(merging._held(plain, quantization, DEVICE), want)


STAGED = """
model: {quantization: none, adapter: {rank: 4}, name: NAME}
data: {train: PAIRS}
train: {steps: 1, rows: 2}
stages:
  - {name: policy, objective: {name: dpo}}
  - {name: scores, objective: {name: reward_model}}
  - {name: made, objective: null, source: {name: candidates}}
"""


def test_of_a_pipeline_the_last_stage_that_fits_is_taken(tiny, plain_world, tmp_path):
    """A policy to sample from, a reward model to score with; a data set is neither."""
    text = STAGED.replace("NAME", str(tiny)).replace("PAIRS", str(plain_world.pairs))
    (tmp_path / "config.yaml").write_text(text)
    plugins = Plugins()
    parts = {"policy": {}, "scores": {"language": False, "scalar": ("reward",)}, "made": None}
    for name, kind in parts.items():
        stage = tmp_path / "stages" / name
        stage.mkdir(parents=True)
        own = yaml.safe_load(text)
        sections = {one.pop("name"): one for one in own.pop("stages")}[name]
        (stage / "config.yaml").write_text(yaml.safe_dump({**own, **sections}))
        if kind is not None:
            role = "reward" if kind else POLICY
            policy(tiny, **kind).roles.save(role, stage / "adapter", str(tiny))
    stages = tmp_path / "stages"
    assert policy_of(str(tmp_path), plugins)[1] == stages / "policy" / "adapter"
    assert list(reward_members(tmp_path, plugins)[1].values()) == [stages / "scores" / "adapter"]
    assert result(tmp_path, plugins)[1] == stages / "scores" / "adapter"
    with pytest.raises(UserError, match="makes a data set .* and trains no model"):
        result(stages / "made", plugins)


def test_two_policies_are_compared_token_by_token(first):
    model = first[0]
    one_MH, other_MH = (20 * torch.randn(5, 64, device=DEVICE) for _ in range(2))
    target_M = torch.arange(5, device=DEVICE)
    with torch.no_grad():
        head = model.base.get_output_embeddings()
        one_MV, other_MV = (head(each).double().log_softmax(-1) for each in (one_MH, other_MH))
    change_M, kl_M = model.compared(one_MH, other_MH, target_M)
    moved_MV = other_MV - one_MV
    assert torch.allclose(change_M.double(), moved_MV[target_M, target_M], atol=1e-3)
    expected_M = -(one_MV.exp() * moved_MV).sum(-1)
    assert torch.allclose(kl_M.double(), expected_M, rtol=1e-3)
    assert not torch.allclose((other_MV.exp() * moved_MV).sum(-1), expected_M, rtol=0.1)


def test_merging_is_exact_and_can_be_done_again(tiny, first, tmp_path):
    """In float32, where nothing is quantized; a death before merge.json begins it anew."""
    section = ModelConfig(
        name=str(tiny), quantization="none", start=str(first[1]), start_as="merge"
    )
    rows = Demonstrations(ragged_pairs().chosen)
    merge_start(section, tmp_path, Bases(), rows)
    report = json.loads((tmp_path / "merge.json").read_text())
    assert report["logp_change"] < 1e-5 and report["kl"] < 1e-6 and report["weights_off"] < 1e-5
    start_MV, base_MV, target_M1 = distributions(first[0], rows)
    moved_M1 = (base_MV - start_MV).gather(1, target_M1)
    kl_M = (start_MV.exp() * (start_MV - base_MV)).sum(-1)
    assert report["start_logp_change"] == pytest.approx(float(moved_M1.abs().mean()), rel=1e-4)
    assert report["start_kl"] == pytest.approx(float(kl_M.mean()), rel=1e-3)
    assert report["start_logp_change"] > 0.01 and report["weights_kept"] == pytest.approx(1)
    base = load_base(merging.based(section, tmp_path), DEVICE)
    merged = LanguageModel(Roles(base, None, frozen=True), dtype=torch.float32, micro_tokens=4096)
    assert float((logps(merged, POLICY) - logps(first[0], POLICY)).abs().max()) < 1e-4
    written = (tmp_path / "base" / "model.safetensors").read_bytes()
    (tmp_path / "merge.json").unlink()
    merge_start(section, tmp_path, Bases(), rows)
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == written
    assert json.loads((tmp_path / "merge.json").read_text()) == report
