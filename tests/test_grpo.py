"""GRPO: its numbers, worked out by hand; what it needs, refuses and advises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from trimtab import Needs, Rollouts, Updates, load_run_file
from trimtab.core.build import build
from trimtab.core.errors import UserError
from trimtab.core.processes import Processes
from trimtab.objectives.grpo import GRPO
from trimtab.plugins.registry import Plugins
from trimtab.testing import given, parametrize_with_checks

LOG2 = math.log(2)


def responses():
    """Ratios: 2, 1; 1/2; 1, 1, 1; 2. Log-ratios to the reference: 1, 1; 0; 0, 0, 2; -1."""
    made = given(
        [[-1.0, -2.0], [-3.0], [-1.0, -1.0, -1.0], [-2.0]],
        [[-2.0, -3.0], [-3.0], [-1.0, -1.0, -3.0], [-1.0]],
    )
    moved_NT = torch.tensor([[LOG2, 0.0, 0.0], [-LOG2, 0, 0], [0, 0, 0], [LOG2, 0, 0]])
    return replace(made, maybe_behaviour_NT=made.policy_NT - moved_NT)


ROWS = Rollouts(
    responses(),
    # advantages with scale none: 1, -1 and 1, -1
    reward_N=torch.tensor([3.0, 1.0, 4.0, 2.0]),
    group_N=torch.tensor([5, 5, 6, 6]),
    truncated_N=torch.tensor([False, False, True, False]),
    limit=4,
)


def found(rows=ROWS, **options):
    """The prepared rows' loss, with two updates and no scale unless told otherwise."""
    objective = GRPO(GRPO.options(**{"epochs": 2, "scale": "none"} | options))
    return objective.loss(rows.with_columns(objective.prepare(rows)))


def values(rows=ROWS, **options):
    return found(rows, **options).value.tolist()


@parametrize_with_checks(
    [
        GRPO(GRPO.options()),
        GRPO(GRPO.options(loss="dapo", clip_high=0.28, dynamic=True, mask_truncated=True)),
        GRPO(GRPO.options(loss="dr_grpo", epochs=2, minibatches=2)),
        GRPO(GRPO.options(beta=0.1)),
        GRPO(GRPO.options(beta=0.1, kl="reward")),
        GRPO(GRPO.options(beta=0.1, kl="k3", epochs=2, scale="batch")),
        GRPO(GRPO.options(beta=0.1, ratio="sequence", clip_high=0.4, epochs=2)),
        GRPO(GRPO.options(ratio="cispo", clip_high=0.5, loss="dapo", epochs=2)),
        GRPO(GRPO.options(delta=1.5, importance_cap=2.0, epochs=2)),
    ]
)
def test_conforms(objective, check):
    check(objective)


# a token's loss, with clip 0.2: -1.2, -1; 0.8; -1, -1, -1; 2
@pytest.mark.parametrize(
    "loss, expected",
    [
        ("grpo", [-2.2 / 2, 0.8, -1.0, 2.0]),
        ("dapo", [-2.2 / 1.75, 0.8 / 1.75, -3 / 1.75, 2 / 1.75]),  # 7 tokens in 4 rows
        ("dr_grpo", [-2.2 / 4, 0.8 / 4, -3 / 4, 2 / 4]),
    ],
)
def test_what_a_sum_over_tokens_is_divided_by(loss, expected):
    assert values(loss=loss) == pytest.approx(expected, rel=1e-5)


def test_bounds_of_the_ratio():
    assert values(clip_high=0.5) == pytest.approx([-2.5 / 2, 0.8, -1.0, 2.0], rel=1e-5)
    assert values(delta=1.25) == pytest.approx([-2.2 / 2, 0.8, -1.0, 1.25], rel=1e-5)


def test_a_sequences_ratio():
    # sqrt(2) for both tokens of the first, cut at 1.2; one token each in the second and the last
    assert values(ratio="sequence") == pytest.approx([-1.2, 0.8, -1.0, 2.0], rel=1e-5)
    wide = values(ratio="sequence", clip=0.9)
    assert wide == pytest.approx([-math.sqrt(2), 0.5, -1.0, 2.0], rel=1e-5)


def test_cispo():
    # -min(ratio, 1.5) A log pi: 1.5 + 2; -1.5; 1 + 1 + 1; -3
    assert values(ratio="cispo", clip_high=0.5) == pytest.approx([1.75, -1.5, 1, -3], rel=1e-5)


def k3(d):
    return math.exp(-d) + d - 1


def test_the_kl_in_the_loss_and_alone():
    plain = values()
    alone = [2 * k3(1) / 2, 0.0, k3(2) / 3, k3(-1)]
    weighed = [3 * k3(1) / 2, 0.0, k3(2) / 3, 2 * k3(-1)]
    for kl, term in (("k3", alone), ("loss", weighed)):
        expected = [p + 0.5 * t for p, t in zip(plain, term, strict=True)]
        assert values(beta=0.5, kl=kl) == pytest.approx(expected, rel=1e-5)


def test_the_kl_in_the_reward_is_that_of_the_policy_that_sampled():
    objective = GRPO(GRPO.options(beta=0.5, kl="reward", scale="none"))
    # k1: 2 - log 2, log 2, 2, -1 - log 2; rewards 2 + log(2)/2, 1 - log(2)/2, 3, 2.5 + log(2)/2
    half, quarter = 0.5 + LOG2 / 2, 0.25 - LOG2 / 4
    columns = objective.prepare(ROWS)
    assert columns["advantage_N"].tolist() == pytest.approx(
        [half, -half, quarter, -quarter], rel=1e-5
    )
    assert columns["all_equal_N"].tolist() == [0.0] * 4


def test_what_did_not_end_leaves_the_loss_but_not_its_groups_mean():
    objective = GRPO(GRPO.options(loss="dapo", mask_truncated=True, scale="none"))
    columns = objective.prepare(ROWS)
    assert columns["weight_N"].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert columns["advantage_N"].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert columns["divisor_N"].tolist() == pytest.approx([4 / 3] * 4)  # 4 tokens in 3 rows


def test_importance_weights_multiply_the_policys_term_alone():
    s = ROWS.responses
    sampled_NT = s.behaviour_NT - torch.tensor([[9.0, 0, 0], [-LOG2, 0, 0], [0, 0, 0], [0, 0, 0]])
    rows = replace(ROWS, responses=replace(s, maybe_sampled_NT=sampled_NT))
    # the first token weighs 3 and not exp(9), the second row 1/2
    expected = [(3 * -1.2 - 1) / 2, 0.4, -1.0, 2.0]
    assert values(rows, importance_cap=3.0) == pytest.approx(expected, rel=1e-5)
    kl = [3 * k3(1) / 2, 0.0, k3(2) / 3, 2 * k3(-1)]
    with_kl = [p + 0.1 * t for p, t in zip(expected, kl, strict=True)]
    assert values(rows, importance_cap=3.0, beta=0.1) == pytest.approx(with_kl, rel=1e-5)


def test_dynamic_sampling_keeps_whole_groups_that_vary():
    rows = replace(ROWS, reward_N=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert GRPO(GRPO.options(dynamic=True)).keep(rows).tolist() == [False, False, True, True]
    assert GRPO(GRPO.options()).keep(rows) is None


@pytest.mark.parametrize(
    "options, needs",
    [
        ({}, Needs()),
        ({"beta": 0.1}, Needs(reference=True)),
        ({"beta": 0.1, "kl": "reward"}, Needs(reference=True, behaviour=True)),
        ({"kl": "reward"}, Needs()),
        ({"minibatches": 2}, Needs(behaviour=True)),
        ({"epochs": 2, "beta": 0.1}, Needs(reference=True, behaviour=True)),
    ],
)
def test_no_pass_is_asked_for_without_a_use(options, needs):
    objective = GRPO(GRPO.options(**options))
    assert objective.needs == needs
    updates = Updates(epochs=options.get("epochs", 1), minibatches=options.get("minibatches", 1))
    assert objective.updates == updates


def test_metrics():
    rows = replace(ROWS, reward_N=torch.tensor([3.0, 1.0, 4.0, 4.0]))
    metrics = found(rows, beta=0.5, scale="group").metrics
    assert metrics["all_equal"][0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert metrics["all_equal"][1].tolist() == [0.5] * 4
    assert metrics["reward_std"][0].tolist() == pytest.approx([math.sqrt(2)] * 2 + [0, 0])
    assert metrics["advantage_size"].tolist() == pytest.approx(
        [1 / (math.sqrt(2) + 1e-4)] * 2 + [0, 0]
    )
    assert metrics["kl_sequence"].tolist() == pytest.approx(
        [2 - LOG2, LOG2, 2.0, -1 - LOG2], rel=1e-5
    )
    tokens = {
        name: metrics[name][0].tolist() for name in metrics if name not in ("advantage_size",)
    }
    assert metrics["ratio"][1].tolist() == [2.0, 1.0, 3.0, 1.0]
    assert tokens["ratio"] == pytest.approx([1.5, 0.5, 1.0, 2.0])
    assert tokens["clipped_high"] == [0.5, 0.0, 0.0, 0.0]
    assert tokens["clipped_low"] == [0.0, 1.0, 0.0, 0.0]
    assert tokens["clipped"] == [0.5, 1.0, 0.0, 0.0]
    # from the policy that sampled: ratio - 1 - log ratio
    assert tokens["kl_moved"] == pytest.approx([(1 - LOG2) / 2, LOG2 - 0.5, 0, 1 - LOG2], abs=1e-6)
    assert "clipped" not in found(rows, epochs=1).metrics
    assert "kl_sequence" not in found(rows).metrics


def test_what_a_source_does_not_say_is_named():
    with pytest.raises(UserError, match="dr_grpo divides by the most tokens .*Rollouts.limit"):
        values(replace(ROWS, limit=None), loss="dr_grpo")
    with pytest.raises(UserError, match="set objective.mask_truncated: false"):
        values(replace(ROWS, truncated_N=None), mask_truncated=True)


def test_a_group_of_one_is_refused(world, tmp_path):
    changes = {
        "objective": {"name": "grpo"},
        "reward": [{"name": "length", "target": 3}],
        "rollout": {"group": 1},
    }
    (stage,) = load_run_file(world.file(tmp_path / "run.yaml", **changes)).stages
    with pytest.raises(UserError, match="rollout.group is 1, and grpo compares completions"):
        build(stage.run, Plugins(), Processes())


@pytest.mark.parametrize(
    "options, text",
    [
        ({"delta": 1.2}, "delta is 1.2 and 1 \\+ clip_high is 1.2: set delta above it"),
        ({"delta": 3.0, "ratio": "cispo"}, "delta does nothing with ratio: cispo"),
    ],
)
def test_bounds_that_contradict_are_refused(options, text):
    with pytest.raises(ValidationError, match=text):
        GRPO.options(**options)


@pytest.mark.parametrize(
    "options, text",
    [
        ({"kl": "reward"}, "objective.beta is 0, so that there is no KL"),
        ({"clip_high": 0.1}, "clip_high is 0.1, below objective.clip (0.2)"),
        ({"ratio": "sequence", "epochs": 2}, "set clip: 3e-4 and clip_high: 4e-4"),
        ({"ratio": "cispo", "epochs": 2}, "so cispo bounds weights at 1.2"),
    ],
)
def test_advice(options, text):
    (said,) = GRPO(GRPO.options(**options)).advice({})
    assert text in said


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": "sequence"},
        {"ratio": "cispo"},
        {"beta": 0.1, "kl": "k3"},
        {"clip_high": 0.28},
    ],
)
def test_usual_settings_get_no_advice(options):
    assert list(GRPO(GRPO.options(**options)).advice({})) == []
