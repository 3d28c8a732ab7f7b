"""Sampled tokens depend on (seed, step, row) and on the policy, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny import policy, save_tiny

from trimtab import Needs
from trimtab.core.model import checkpoints, load_tokenizer
from trimtab.core.policy import POLICY
from trimtab.core.sampling import as_sequences, sample, stop_ids, uniforms

NEVER: frozenset[int] = frozenset()
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def drawn(model, prompts, rows, *, stops=NEVER, width=12, temperature=1.0):
    with model.role(POLICY):
        return sample(
            model, prompts, uniforms(3, 1, rows, width), stops=stops, temperature=temperature
        )


def test_a_row_gets_the_same_tokens_alone_and_in_any_batch(tiny):
    model = policy(tiny)
    together = drawn(model, PROMPTS, range(4))
    backwards = drawn(model, PROMPTS[::-1], [3, 2, 1, 0])[::-1]
    alone = [drawn(model, [prompt], [row])[0] for row, prompt in enumerate(PROMPTS)]
    model.micro_tokens = 1
    one_by_one = drawn(model, PROMPTS, range(4))
    assert together == backwards == alone == one_by_one
    assert len({c.tokens for c in drawn(model, [PROMPTS[0]] * 4, range(4))}) == 4


def test_every_stop_id_ends_a_completion_and_is_kept(tiny):
    model = policy(tiny)
    free = drawn(model, PROMPTS, range(4))
    stops = frozenset({free[0].tokens[4], free[2].tokens[0]})
    stopped = drawn(model, PROMPTS, range(4), stops=stops)
    for one, whole in zip(stopped, free, strict=True):
        ends = [t for t, token in enumerate(whole.tokens) if token in stops]
        assert one.tokens == (whole.tokens[: ends[0] + 1] if ends else whole.tokens)
        assert one.truncated == (not ends)
    assert len(stopped[2].tokens) == 1


def test_tokens_follow_the_policys_distribution(tiny):
    """The first token of 4000 samples against softmax, by total variation."""
    model = policy(tiny)
    made = drawn(model, [[5, 6]] * 4000, range(4000), width=1, temperature=0.3)
    with model.role(POLICY), torch.no_grad():
        logits_V = model.base(torch.tensor([[5, 6]])).logits[0, -1]
    want_V = (logits_V / 0.3).softmax(-1)
    got_V = torch.bincount(torch.tensor([c.tokens[0] for c in made]), minlength=49152) / 4000
    top = want_V.topk(20).indices
    error = float((got_V[top] - want_V[top]).abs().max())
    assert error < 4 * float((want_V.max() / 4000).sqrt())


def test_the_trainers_log_prob_is_the_samplers(tiny):
    """Inverse sampling can be checked exactly: the uniform number lies in the token's interval."""
    model = policy(tiny)
    uniform_NT = uniforms(3, 1, range(4), 12)
    made = drawn(model, PROMPTS, range(4))
    rows = as_sequences(made)
    with model.role(POLICY), torch.no_grad():
        logps_NT = model.forward({"r": rows}, Needs())["r"].policy_NT
    for n, completion in enumerate(made):
        ids = torch.tensor([[*completion.prompt, *completion.tokens]])
        with model.role(POLICY), torch.no_grad():
            logits = model.base(ids).logits[0, len(completion.prompt) - 1 : -1]
        cumulated = logits.double().softmax(-1).cumsum(-1)
        for t, token in enumerate(completion.tokens):
            low = float(cumulated[t, token - 1]) if token else 0.0
            assert low - 1e-6 <= float(uniform_NT[n, t]) <= float(cumulated[t, token]) + 1e-6
            width = float(cumulated[t, token]) - low
            assert float(logps_NT[n, t].exp()) == pytest.approx(width, rel=1e-3, abs=1e-7)


def test_stop_ids_come_from_the_generation_config_and_the_tokenizer(tiny):
    model, tokenizer = policy(tiny), load_tokenizer(str(tiny))
    model.base.generation_config.eos_token_id = [7, 9]
    assert stop_ids(model.base, tokenizer) == {7, 9, tokenizer.eos_token_id}


def test_sampling_leaves_recomputation_as_it_was(tiny):
    model = policy(tiny, checkpointing=True)
    made = drawn(model, PROMPTS, range(4))
    assert made == drawn(policy(tiny), PROMPTS, range(4))
    assert checkpoints(model.base)
