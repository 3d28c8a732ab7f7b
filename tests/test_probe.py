"""Prefix sharing is exact for each architecture, or is refused."""

from __future__ import annotations

import pytest
import torch
from tiny import DEVICE, gradient, perturb, ragged_pairs, relative
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Qwen2Config

from trimtab.core.batches import Pairs, sequences
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.gradient import accumulate
from trimtab.core.layout import Layout
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, load_base
from trimtab.core.probe import sharing_is_exact
from trimtab.core.roles import Roles
from trimtab.objectives.dpo import DPO

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "initializer_range": 0.1,
}
ARCHITECTURES = {
    "qwen2": Qwen2Config(num_hidden_layers=2, **SMALL),
    "mistral, all layers sliding": MistralConfig(num_hidden_layers=2, sliding_window=8, **SMALL),
    "gemma3, layers of two kinds": Gemma3TextConfig(
        num_hidden_layers=3,
        head_dim=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **SMALL,
    ),
}


def model_of(config, folder, *, dtype="float32", quantization="none", dropout=0.0):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    section = ModelConfig(name=str(folder), quantization=quantization, dtype=dtype)
    roles = Roles(load_base(section, DEVICE), AdapterConfig(rank=4, dropout=dropout), seed=0)
    perturb(roles, 0.3)
    return LanguageModel(roles, dtype=compute_dtype(section, DEVICE), micro_tokens=4096)


def pairs(rows=3):
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(3, 500, (length,), generator=generator).tolist()

    prompts = [ids(20 + i) for i in range(rows)]
    return Pairs(
        sequences(prompts, [ids(12) for _ in prompts]),
        sequences(prompts, [ids(9) for _ in prompts]),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sharing_is_exact(name, tmp_path):
    model = model_of(ARCHITECTURES[name], tmp_path)
    verdict = sharing_is_exact(model, pairs(1))
    assert verdict.share, verdict.why
    objective = DPO(DPO.options(reference_free=True))
    grads = []
    for share in (False, True):
        model.share = share
        accumulate(model, objective, {"batch": pairs()})
        grads.append(gradient(model))
    assert relative(grads[1], grads[0]) < 1e-5


def test_a_window_that_is_counted_wrongly_is_refused(tmp_path, monkeypatch):
    """The fault of field notes: one mask without the window for every layer."""
    model = model_of(ARCHITECTURES["gemma3, layers of two kinds"], tmp_path)
    right = Layout.attention
    monkeypatch.setattr(Layout, "attention", lambda self, window=None: right(self, None))
    verdict = sharing_is_exact(model, pairs(1))
    assert not verdict.share
    assert "off" in verdict.why


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_bf16_is_judged_by_what_padding_does(tmp_path, quantization):
    model = model_of(ARCHITECTURES["qwen2"], tmp_path, dtype="bfloat16", quantization=quantization)
    before = {name: p.clone() for name, p in model.base.state_dict().items() if p is not None}
    verdict = sharing_is_exact(model, pairs(1))
    assert verdict.share, verdict.why
    assert "padded by" in verdict.why
    after = model.base.state_dict()
    assert all(torch.equal(p, after[name]) for name, p in before.items())
    assert model.dtype == torch.bfloat16


def test_nothing_to_share_is_no_reason_to_share(tmp_path):
    model = model_of(ARCHITECTURES["qwen2"], tmp_path)
    assert not sharing_is_exact(model, None).share
    alone = Pairs(ragged_pairs(1).chosen, ragged_pairs(1, seed=5).rejected)
    assert "no row has two completions" in sharing_is_exact(model, alone).why


def test_dropout_does_not_hide_that_sharing_is_exact(tmp_path):
    model = model_of(ARCHITECTURES["qwen2"], tmp_path, dropout=0.5)
    before = model.dropouts
    assert sharing_is_exact(model, pairs(1)).share
    assert model.dropouts == before and all(p == 0.5 for _, p in before)
