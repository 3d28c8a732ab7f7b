"""Log-probs by chunks are log_softmax, and so is their gradient, on every path."""

from __future__ import annotations

import pytest
import torch
from tiny import DEVICE, save_tiny
from transformers import AutoModelForCausalLM, CohereConfig

from trimtab.core import logprobs
from trimtab.core.config import ModelConfig
from trimtab.core.errors import UserError
from trimtab.core.lm import LanguageModel
from trimtab.core.logprobs import token_logps
from trimtab.core.model import load_base
from trimtab.core.roles import Roles

M, H, V = 23, 8, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 4 * V * 5)  # five tokens at a time


def numbers(seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(M, H, generator=generator, dtype=torch.float32)
    weight = torch.randn(V, H, generator=generator)
    target = torch.randint(0, V, (M,), generator=generator)
    grad = torch.randn(M, generator=generator)
    return hidden.requires_grad_(), weight, target, grad


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients(frozen, temperature):
    hidden, weight, target, grad = numbers()
    want = ((hidden @ weight.T) / temperature).log_softmax(-1).gather(-1, target[:, None])[:, 0]
    (slope,) = torch.autograd.grad(want, hidden, grad)
    got, _ = token_logps(
        hidden,
        target,
        lambda part: part @ weight.T,
        V,
        frozen_VH=weight if frozen else None,
        temperature=temperature,
    )
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(got, hidden, grad)[0], slope, rtol=1e-5, atol=1e-5
    )


def test_a_trained_head_gets_its_gradient():
    hidden, weight, target, grad = numbers()
    weight.requires_grad_()
    want = (hidden @ weight.T).log_softmax(-1).gather(-1, target[:, None])[:, 0]
    (slope,) = torch.autograd.grad(want, weight, grad)
    got, _ = token_logps(hidden, target, lambda part: part @ weight.T, V)
    torch.testing.assert_close(torch.autograd.grad(got, weight, grad)[0], slope)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_logits_of_all_tokens_are_never_held(frozen, monkeypatch):
    hidden, weight, target, grad = numbers()
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.ndim == 2 and made.shape[-1] == V:
                largest = max(largest, len(made))
            return made

    with Watch():
        got, _ = token_logps(
            hidden, target, lambda part: part @ weight.T, V, frozen_VH=weight if frozen else None
        )
        got.backward(grad)
    assert 5 <= largest < M


@pytest.mark.parametrize("frozen", [False, True])
def test_no_tokens(frozen):
    hidden, weight, target, _ = numbers()
    got, _ = token_logps(
        hidden[:0],
        target[:0],
        lambda part: part @ weight.T,
        V,
        frozen_VH=weight if frozen else None,
    )
    assert got.shape == (0,)


def test_a_model_that_scales_its_logits_is_refused(tmp_path):
    config = CohereConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=128,
        logit_scale=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    base = load_base(ModelConfig(name=str(tmp_path), quantization="none"), DEVICE)
    model = LanguageModel(Roles(base, None, frozen=True), dtype=torch.float32, micro_tokens=64)
    with pytest.raises(UserError, match="CohereForCausalLM changes its logits"):
        model.check_head()


def test_a_plain_model_is_not_refused(tmp_path):
    base = load_base(ModelConfig(name=str(save_tiny(tmp_path)), quantization="nf4"), DEVICE)
    LanguageModel(
        Roles(base, None, frozen=True), dtype=torch.float32, micro_tokens=64
    ).check_head()
