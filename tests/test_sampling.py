"""Sampled tokens depend on (seed, step, row) and on the policy, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from tiny import DEVICE, perturb, policy, save_tiny
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from trimtab import Needs
from trimtab.core.config import ModelConfig
from trimtab.core.errors import RunError
from trimtab.core.lm import LanguageModel
from trimtab.core.model import checkpoints, load_base, load_tokenizer
from trimtab.core.policy import POLICY
from trimtab.core.roles import Roles
from trimtab.core.sampling import _draw, as_sequences, portions, sample, stop_ids, stream, uniforms

NEVER: frozenset[int] = frozenset()
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15], [16, 17, 18, 19]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def drawn(model, prompts, rows, *, width=12, **options):
    with model.role(POLICY):
        return sample(model, prompts, uniforms(3, 1, rows, width), **{"stops": NEVER, **options})


def test_a_row_gets_the_same_tokens_alone_and_in_any_batch(tiny):
    model = policy(tiny)
    together = drawn(model, PROMPTS, range(4))
    backwards = drawn(model, PROMPTS[::-1], [3, 2, 1, 0])[::-1]
    alone = [drawn(model, [prompt], [row])[0] for row, prompt in enumerate(PROMPTS)]
    model.micro_tokens = 1
    one_by_one = drawn(model, PROMPTS, range(4))
    assert together == backwards == alone == one_by_one
    assert len({c.tokens for c in drawn(model, [PROMPTS[0]] * 4, range(4))}) == 4


def test_dropout_is_of_passes_with_gradient_and_changes_no_sample(tiny):
    config = ModelConfig(name=str(tiny), quantization="none", adapter={"rank": 4, "dropout": 0.5})
    roles = Roles(load_base(config, DEVICE), config.adapter)
    perturb(roles, 0.3)
    model = LanguageModel(roles, dtype=torch.float32, micro_tokens=4096)
    undropped = policy(tiny)
    assert drawn(model, PROMPTS, range(4)) == drawn(undropped, PROMPTS, range(4))


def test_a_completion_streams_the_tokens_that_it_is_sampled_with(tiny):
    model = policy(tiny)
    for row, prompt in enumerate(PROMPTS):
        (whole,) = drawn(model, [prompt], [row])
        with model.role(POLICY):
            assert tuple(stream(model, prompt, uniforms(3, 1, [row], 12), stops=NEVER)) == (
                whole.tokens
            )
            stops = frozenset([whole.tokens[4]])
            cut = tuple(stream(model, prompt, uniforms(3, 1, [row], 12), stops=stops))
        assert cut == whole.tokens[: whole.tokens.index(whole.tokens[4]) + 1]


def shaped(kind, folder):
    """A tiny model of another architecture; windows of 6 are shorter than what is sampled."""
    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    if kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**settings))
    elif kind == "qwen2, windows":
        windows = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
        model = Qwen2ForCausalLM(Qwen2Config(**settings, **windows))
    else:
        layers = ["sliding_attention", "full_attention"]
        model = Gemma3ForCausalLM(
            Gemma3TextConfig(**settings, head_dim=16, sliding_window=6, layer_types=layers)
        )
    model.save_pretrained(folder)
    return policy(folder)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen2, windows", "gemma3, windows"])
def test_a_row_is_the_same_alone_in_a_batch_and_in_a_group(kind, tiny, tmp_path):
    """Groups of 3, 1 and 2 of all lengths, in a mixed order; rows end at different tokens."""
    model = policy(tiny) if kind == "llama" else shaped(kind, tmp_path)
    order = [0, 1, 0, 2, 2, 0]
    prompts = [PROMPTS[i] for i in order]
    free = drawn(model, prompts, range(6), temperature=0.8)
    stops = frozenset({free[0].tokens[3], free[3].tokens[1], free[5].tokens[7]})
    options = {"stops": stops, "temperature": 0.8, "record": True}
    together = drawn(model, prompts, range(6), **options)
    alone = [drawn(model, [p], [row], **options)[0] for row, p in enumerate(prompts)]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.truncated for c in together] == [c.truncated for c in alone]
    assert len({len(c.tokens) for c in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-4)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-4)


def test_each_prompt_is_read_once_for_its_group(tiny):
    model, read = policy(tiny), []
    hook = model.base.get_input_embeddings().register_forward_hook(
        lambda module, given, made: read.append(tuple(given[0].shape))
    )
    drawn(model, [PROMPTS[0]] * 3 + [PROMPTS[2]] * 2, range(5), width=3)
    hook.remove()
    assert read == [(2, 7), (5, 1), (5, 1)]


def test_rows_that_ended_are_read_no_more(tiny):
    model, read = policy(tiny), []
    free = drawn(model, [PROMPTS[0]] * 4, range(4), width=4)
    hook = model.base.get_input_embeddings().register_forward_hook(
        lambda module, given, made: read.append(given[0].shape[0])
    )
    made = drawn(model, [PROMPTS[0]] * 4, range(4), width=4, stops=frozenset({free[2].tokens[0]}))
    hook.remove()
    assert read == [1, *(sum(len(c.tokens) > t for c in made) for t in (1, 2, 3))]
    assert read[1] < 4


def test_groups_stay_together_and_are_cut_only_where_they_must():
    long, short, other = [1, 2, 3], [4], [5]
    assert portions([short, long, short, long, other], 3) == [[1, 3], [0, 2, 4]]
    assert portions([short] * 5, 2) == [[0, 1], [2, 3], [4]]
    assert portions([short, other, short, other], 3) == [[0, 2], [1, 3]]
    assert portions([], 3) == []


def test_logits_that_are_not_finite_are_no_distribution(tiny):
    model = policy(tiny)
    with torch.no_grad():
        model.base.model.norm.weight[0] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(RunError, match="logits are not finite"):
            drawn(model, PROMPTS, range(4), temperature=temperature)


def test_a_token_without_mass_is_never_drawn():
    """At the greatest uniform number that there is, with no mass on the last tokens."""
    logits_NV = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    for value in (0.0, 0.3, 1 - 2**-53):
        token_N, logp_N, entropy_N = _draw(
            logits_NV.clone(), torch.tensor([value], dtype=torch.float64), 1.0, True
        )
        assert int(token_N) == (value > 0.2689414213699951)  # 1 / (1 + e)
        assert float(logp_N) == pytest.approx(-0.3132616875182228 - (value < 0.2))
    assert float(entropy_N) == pytest.approx(0.5822031088882179)  # of (0.2689, 0.7311)


def test_records_are_log_probs_and_entropies_at_the_temperature(tiny):
    model = policy(tiny)
    for completion in drawn(model, PROMPTS, range(4), temperature=0.5, record=True):
        ids = torch.tensor([[*completion.prompt, *completion.tokens]])
        with model.role(POLICY), torch.no_grad():
            logits = model.base(ids).logits[0, len(completion.prompt) - 1 : -1]
        logps = (logits.double() / 0.5).log_softmax(-1)
        told = logps.gather(-1, torch.tensor(completion.tokens)[:, None])[:, 0]
        entropy = -(logps.exp() * logps).sum(-1)
        assert completion.logps == pytest.approx(told.tolist(), abs=1e-4)
        assert completion.entropy == pytest.approx(entropy.tolist(), abs=1e-4)
    assert drawn(model, PROMPTS, range(4))[0].logps is None


def test_temperature_0_takes_the_likeliest_token_whatever_the_random_number(tiny):
    model = policy(tiny)
    made = drawn(model, PROMPTS, range(4), temperature=0.0, record=True)
    others = drawn(model, PROMPTS, range(7, 11), temperature=0.0, record=True)
    assert made == others
    for completion in made:
        ids = torch.tensor([[*completion.prompt, *completion.tokens]])
        with model.role(POLICY), torch.no_grad():
            logits = model.base(ids).logits[0, len(completion.prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == list(completion.tokens)
        assert set(completion.logps) == set(completion.entropy) == {0.0}


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


def test_tokens_follow_the_policys_distribution(tmp_path):
    """The first token of 4000 samples against softmax."""
    model = shaped("qwen2", tmp_path)
    made = drawn(model, [[5, 6]] * 4000, range(4000), width=1, temperature=0.3)
    with model.role(POLICY), torch.no_grad():
        logits_V = model.base(torch.tensor([[5, 6]])).logits[0, -1]
    want_V = (logits_V / 0.3).softmax(-1)
    got_V = torch.bincount(torch.tensor([c.tokens[0] for c in made]), minlength=300) / 4000
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
