"""GRPO on a real model: its gradient is the same however the rows are laid out, cut and padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import gradient, perturb, policy, relative, save_tiny

from trimtab import Rollouts
from trimtab.core.batches import sequences, widened
from trimtab.core.columns import annotate, prepare
from trimtab.core.gradient import accumulate
from trimtab.objectives.grpo import GRPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

LIVE = AdapterOff(AdapterOffConfig())
UPDATES = {"epochs": 2, "beta": 0.1}


def ragged_rollouts(groups=3, group=4):
    """Groups of completions of all lengths, which end in the EOS action, the padding id too."""
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    prompts = [one for g in range(groups) for one in [ids(5 + 3 * g)] * group]
    count = groups * group
    return Rollouts(
        sequences(prompts, [[*ids(1 + (5 * i) % 11), 2] for i in range(count)]),
        torch.randn(count, generator=generator),
        torch.arange(groups).repeat_interleave(group),
        truncated_N=torch.arange(count) % 5 == 1,
        limit=12,
    )


BATCH = ragged_rollouts()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("share", [False, True])
def test_the_ratio_is_1_at_first_and_not_later(tiny, quantization, share):
    """Exactly, and the KL is 0: from weights that are the reference's, in micro-batches."""
    model = policy(tiny, quantization=quantization, share=share, micro_tokens=90, spread=0.0)
    objective = GRPO(GRPO.options(**UPDATES))
    batch = prepare(objective, annotate(model, LIVE, BATCH, objective.needs))
    first = accumulate(model, objective, {"batch": batch})
    assert (first["ratio"], first["kl_moved"], first["clipped"]) == (1.0, 0.0, 0.0)
    assert (first["kl_sequence"], first["kl_token"]) == (0.0, 0.0)
    perturb(model.roles, 0.05)
    later = accumulate(model, objective, {"batch": batch})
    assert later["ratio"] != 1 and later["kl_moved"] > 0.001 and later["clipped"] > 0.05
    assert later["kl_sequence"] == 0.0  # of the policy that sampled


def test_one_update_is_the_first_of_many(tiny):
    """The gradient without old log-probs is that with them, before anything has moved."""
    model = policy(tiny)
    assert torch.equal(trained(model, beta=0.1)[0], trained(model, **UPDATES)[0])


def trained(model, batch=BATCH, *, micro_tokens=4096, share=False, step=0.0, **options):
    """The gradient and metrics of an update, from weights moved by a step since the rollout."""
    model.micro_tokens, model.share = micro_tokens, share
    objective = GRPO(GRPO.options(**options))
    perturb(model.roles, 0.05)
    filled = prepare(objective, annotate(model, LIVE, batch, objective.needs))
    perturb(model.roles, 0.05 + step)
    metrics = accumulate(model, objective, {"batch": filled})
    return gradient(model), metrics


SETTINGS = [
    {"loss": "dapo", "beta": 0.1, "epochs": 2},
    {
        "ratio": "sequence",
        "clip": 0.02,
        "beta": 0.1,
        "kl": "reward",
        "epochs": 2,
        "mask_truncated": True,
    },
]


@pytest.mark.parametrize("options", SETTINGS, ids=["tokens", "sequences"])
def test_micro_batches_sharing_and_padding_change_nothing(tiny, options):
    model = policy(tiny)
    want, metrics = trained(model, step=0.03, **options)
    assert 0 < metrics["clipped"] < 0.6
    for micro_tokens, share in ((90, False), (90, True), (1, False), (4096, True)):
        got, seen = trained(model, micro_tokens=micro_tokens, share=share, step=0.03, **options)
        assert relative(got, want) < 1e-5
        assert seen == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    wide, _ = trained(model, widened_by(BATCH, 7), step=0.03, **options)
    assert relative(wide, want) < 1e-6


def widened_by(batch, columns):
    s = batch.responses
    width = s.tokens_NT.shape[1] + columns
    wide = {name: widened(getattr(s, name), width) for name in ("tokens_NT", "mask_NT")}
    return batch.with_sequences({"responses": replace(s, **wide)})


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_recomputation_changes_nothing(tiny, quantization):
    grads = [
        trained(policy(tiny, quantization=quantization, checkpointing=on), step=0.03, **UPDATES)
        for on in (False, True)
    ]
    assert torch.equal(grads[1][0], grads[0][0])
    assert grads[1][1] == grads[0][1]
