"""log P of answers that are given, against transformers' own logits, one prompt at a time."""

from __future__ import annotations

import pytest
import torch
from test_sampling import shaped
from tiny import DEVICE, policy, save_tiny

from trimtab.core.choices import option_logps
from trimtab.core.model import checkpoints
from trimtab.core.policy import BASE, POLICY

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19], [12]]
OPTIONS = [
    [[20], [21]],
    [[20, 2], [20, 22, 2], [21, 2]],
    [[20], [21, 22, 23], [21, 22, 24]],
    [[30]],
    [[20], [21]],
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def asked(model, prompts=PROMPTS, options=OPTIONS, role=POLICY):
    with model.role(role):
        return option_logps(model, prompts, options)


def by_transformers(model, prompt, option, role=POLICY):
    ids = torch.tensor([[*prompt, *option]], device=DEVICE)
    with model.role(role), torch.no_grad():
        logps = model.base(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return float(logps.gather(-1, torch.tensor(option, device=DEVICE)[:, None]).sum())


@pytest.mark.parametrize("role", [POLICY, BASE])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen2, windows", "gemma3, windows"])
def test_each_is_what_transformers_says_of_prompt_and_option_alone(kind, role, tiny, tmp_path):
    model = policy(tiny) if kind == "llama" else shaped(kind, tmp_path)
    for found, prompt, options in zip(asked(model, role=role), PROMPTS, OPTIONS, strict=True):
        for logp, option in zip(found, options, strict=True):
            assert logp == pytest.approx(by_transformers(model, prompt, option, role), abs=1e-5)


def test_numbers_are_the_same_alone_and_in_any_batch(tiny):
    model = policy(tiny)
    together = asked(model)
    backwards = asked(model, PROMPTS[::-1], OPTIONS[::-1])[::-1]
    alone = [asked(model, [p], [o])[0] for p, o in zip(PROMPTS, OPTIONS, strict=True)]
    model.micro_tokens = 1
    one_by_one = asked(model)
    for others in (backwards, alone, one_by_one):
        for one, other in zip(together, others, strict=True):
            assert other == pytest.approx(one, abs=1e-5)


def test_each_prompt_is_read_once_and_what_options_share_once_after_it(tiny):
    model, read = policy(tiny), []
    hook = model.base.get_input_embeddings().register_forward_hook(
        lambda module, given, made: read.append(tuple(given[0].shape))
    )
    asked(model, PROMPTS[:3], OPTIONS[:3])
    hook.remove()
    assert read == [(3, 7), (3, 1), (2, 1)]  # 20 and 21 of the second, 21 of the third; ...


def test_shares_of_all_first_tokens_add_up_to_one(tiny):
    model = policy(tiny)
    (found,) = asked(model, [PROMPTS[0]], [[[token] for token in range(49152)]])
    assert torch.tensor(found, dtype=torch.float64).exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_recomputation_is_left_as_it_was(tiny):
    model = policy(tiny, checkpointing=True)
    assert asked(model) == asked(policy(tiny))
    assert checkpoints(model.base)


def test_nothing_asked_is_nothing_answered(tiny):
    assert asked(policy(tiny), [], []) == []
