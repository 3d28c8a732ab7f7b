"""The accumulated gradient equals one written out by hand, however the rows are split."""

import math

import pytest
import torch
from torch.nn.functional import softplus
from toy import REFERENCE, Bigram, V, in_two_processes, previous, ragged
from toy_objectives import ActorCritic, Threshold, entropy

from trimtab import Config, Demonstrations, Labelled, Loss, Needs, Objective, Pairs, Rollouts, Term
from trimtab.core.batches import NotDeclared
from trimtab.core.columns import annotate, forward, prepare
from trimtab.core.gradient import accumulate
from trimtab.objectives.dpo import DPO
from trimtab.objectives.sft import SFT

N = 12
SIZES = [1, 3, N]
PAIRS = Pairs(ragged(N, 1), ragged(N, 2))


def streams(policy, objective, processes=None, **raw):
    """Annotated and prepared rows."""
    batch = annotate(policy, REFERENCE, raw["batch"], objective.needs, processes)
    return {**raw, "batch": prepare(objective, batch)}


def accumulated(objective, microbatch, processes=None, **raw):
    """Both tables' gradients and the metrics, by the core."""
    policy = Bigram(microbatch)
    rows = streams(policy, objective, processes, **raw)
    metrics = accumulate(policy, objective, rows, processes)
    return policy.gradients(), metrics


def assert_close(got, want):
    """Relative to the size of each gradient."""
    for one, other in zip(got, want, strict=True):
        assert (one - other).norm() <= 1e-12 * other.norm().clamp(min=1e-12)


def logps(table_VV, one):
    """By hand: the log-prob of each token."""
    return table_VV.log_softmax(-1)[previous(one), one.tokens_NT]


def logratio(policy, one):
    """By hand: of each whole completion."""
    ratio_NT = logps(policy.policy_VV, one) - logps(policy.reference_VV, one)
    return torch.stack([row[mask].sum() for row, mask in zip(ratio_NT, one.mask_NT, strict=True)])


@pytest.mark.parametrize("microbatch", SIZES)
def test_preferences(microbatch):
    policy = Bigram()
    margin_N = 0.1 * (logratio(policy, PAIRS.chosen) - logratio(policy, PAIRS.rejected))
    want = torch.autograd.grad(softplus(-margin_N).mean(), [policy.policy_VV])
    got, metrics = accumulated(DPO(DPO.options()), microbatch, batch=PAIRS)
    assert_close(got[:1], want)
    assert metrics["loss"] == pytest.approx(softplus(-margin_N).mean().item())
    assert metrics["accuracy"] == pytest.approx((margin_N > 0).double().mean().item())


@pytest.mark.parametrize("microbatch", SIZES)
def test_two_terms_with_different_normalisers(microbatch):
    policy = Bigram()
    margin_N = 0.1 * (logratio(policy, PAIRS.chosen) - logratio(policy, PAIRS.rejected))
    nll = -logps(policy.policy_VV, PAIRS.chosen)[PAIRS.chosen.mask_NT].mean()
    loss = softplus(-margin_N).mean() + 0.3 * nll
    got, metrics = accumulated(DPO(DPO.options(sft_weight=0.3)), microbatch, batch=PAIRS)
    assert_close(got[:1], torch.autograd.grad(loss, [policy.policy_VV]))
    assert metrics["loss"] == pytest.approx(loss.item())
    assert metrics["imitation"] == pytest.approx(nll.item())


class ThreeWeights(DPO):
    """Rows, the tokens of either side and a prepared column, on one forward."""

    terms = (
        Term("loss"),
        Term("imitation", weight="tokens", scale=0.3),
        Term("avoidance", weight="tokens:rejected", scale=0.2),
        Term("reweighted", weight="share_N"),
    )

    def prepare(self, batch):
        return {"share_N": torch.linspace(0.01, 0.03, len(batch), dtype=torch.float64)}

    def avoidance(self, batch):
        return Loss(batch.rejected.policy_NT)

    def reweighted(self, batch):
        return Loss(batch.rejected.logratio_N)


@pytest.mark.parametrize("microbatch", SIZES)
def test_terms_share_a_forward(microbatch):
    policy = Bigram(microbatch)
    objective = ThreeWeights(DPO.options())
    rows = streams(policy, objective, batch=PAIRS)
    policy.forwards.clear()
    accumulate(policy, objective, rows)
    assert policy.forwards == {("policy", True): N // microbatch}

    hand = Bigram()
    ratio_w_N, ratio_l_N = logratio(hand, PAIRS.chosen), logratio(hand, PAIRS.rejected)
    share_N = torch.linspace(0.01, 0.03, N, dtype=torch.float64)
    loss = softplus(-0.1 * (ratio_w_N - ratio_l_N)).mean()
    loss = loss - 0.3 * logps(hand.policy_VV, PAIRS.chosen)[PAIRS.chosen.mask_NT].mean()
    loss = loss + 0.2 * logps(hand.policy_VV, PAIRS.rejected)[PAIRS.rejected.mask_NT].mean()
    loss = loss + (share_N * ratio_l_N).sum() / share_N.sum()
    assert_close(policy.gradients()[:1], torch.autograd.grad(loss, [hand.policy_VV]))


@pytest.mark.parametrize("microbatch", SIZES)
def test_roles_and_streams(microbatch):
    reward_N = torch.linspace(-1, 1, N, dtype=torch.float64)
    rollouts = Rollouts(ragged(N, 3), reward_N, torch.arange(N) // 4)
    text = Demonstrations(ragged(N - 2, 4))
    got, _ = accumulated(ActorCritic(Config()), microbatch, batch=rollouts, text=text)

    hand = Bigram()
    r, mask_NT = rollouts.responses, rollouts.responses.mask_NT
    value_N = (hand.critic_V[previous(r)] * mask_NT).sum(-1)
    logps_NTV = hand.policy_VV.log_softmax(-1)[previous(r)]
    logps_NT = logps(hand.policy_VV, r)
    gain_NT = (logps_NT - logps_NT.detach()).exp() * (reward_N - value_N.detach())[:, None]
    entropy_NT = -(logps_NTV.exp() * logps_NTV).sum(-1)
    loss = -(gain_NT + 0.01 * entropy_NT)[mask_NT].mean()
    loss = loss + 0.5 * (value_N - reward_N).square().mean()
    loss = loss - 0.1 * logps(hand.policy_VV, text.responses)[text.responses.mask_NT].mean()
    assert_close(got, torch.autograd.grad(loss, [hand.policy_VV, hand.critic_V]))


@pytest.mark.parametrize("microbatch", SIZES)
def test_statistics_of_the_batch(microbatch):
    labelled = Labelled(ragged(N, 5), torch.arange(N) % 3 == 0, ragged(N, 6))
    got, _ = accumulated(Threshold(Config()), microbatch, batch=labelled)

    hand = Bigram()
    point = logratio(hand, labelled.mismatched).mean().clamp(min=0).detach()
    assert point > 0  # else the statistic would not show
    sign_N = torch.where(labelled.desirable_N, 1.0, -1.0)
    loss = torch.sigmoid(-sign_N * (logratio(hand, labelled.responses) - point)).mean()
    assert_close(got[:1], torch.autograd.grad(loss, [hand.policy_VV]))


SHARED = {
    "sft": (SFT(SFT.options()), {"batch": Demonstrations(ragged(N, 7))}),
    "dpo": (DPO(DPO.options(sft_weight=0.3)), {"batch": PAIRS}),
    "ragged": (DPO(DPO.options(sft_weight=0.3)), {"batch": PAIRS[torch.arange(N - 5)]}),
    "one row": (DPO(DPO.options()), {"batch": PAIRS[torch.tensor([4])]}),
    "before": (
        Threshold(Config()),
        {"batch": Labelled(ragged(N, 5), torch.arange(N) % 3 == 0, ragged(N, 6))},
    ),
    "roles": (
        ActorCritic(Config()),
        {
            "batch": Rollouts(ragged(N, 3), torch.linspace(-1, 1, N), torch.arange(N) // 4),
            "text": Demonstrations(ragged(N - 3, 4)),
        },
    ),
}


@pytest.mark.parametrize("microbatch", [1, N])
@pytest.mark.parametrize("case", SHARED)
def test_two_processes_have_the_gradient_of_one(case, microbatch):
    objective, raw = SHARED[case]
    alone, metrics = accumulated(objective, N, **raw)
    both = in_two_processes(lambda processes: accumulated(objective, microbatch, processes, **raw))
    for gradients, seen in both:
        assert_close(gradients, alone)
        assert seen == pytest.approx(metrics)


def test_wanted_before_costs_no_forward_with_gradient():
    policy = Bigram(microbatch=N)
    labelled = Labelled(ragged(N, 5), torch.arange(N) % 3 == 0, ragged(N, 6))
    rows = streams(policy, Threshold(Config()), batch=labelled)
    assert policy.forwards == {("reference", False): 2, ("policy", False): 1}
    assert rows["batch"].responses.maybe_policy_NT is None
    assert not rows["batch"].mismatched.policy_NT.requires_grad
    assert forward(policy, rows["batch"], Threshold.needs).mismatched is rows["batch"].mismatched


def test_values_of_before_the_updates_are_for_prepare_alone():
    rollouts = Rollouts(ragged(N, 3), torch.zeros(N), torch.arange(N))
    policy = Bigram()
    batch = annotate(policy, REFERENCE, rollouts, ActorCritic.needs)
    assert batch.responses.values_NT.shape == batch.responses.mask_NT.shape
    with pytest.raises(NotDeclared, match="in terms of a scalar role"):
        forward(policy, batch, ActorCritic.needs).responses.values_NT  # noqa: B018


def test_nothing_is_computed_that_was_not_asked_for():
    policy = Bigram(microbatch=N)
    streams(policy, SFT(SFT.options()), batch=Demonstrations(ragged(N)))
    assert policy.forwards == {}


def test_tokenwise_functions_reach_the_loss():
    class Entropy(Objective[Demonstrations, Config]):
        needs = Needs(tokenwise={"entropy": entropy})
        terms = (Term("loss", weight="tokens"),)

        def loss(self, batch):
            return Loss(-batch.responses.tokenwise_NT["entropy"])

    metrics = accumulate(Bigram(5, spread=0.0), Entropy(Config()), {"batch": PAIRS_AS_TEXT})
    assert metrics["loss"] == pytest.approx(-math.log(V))  # of the uniform distribution


PAIRS_AS_TEXT = Demonstrations(PAIRS.chosen)


def test_a_term_without_weight_adds_nothing():
    class Weightless(SFT):
        terms = (Term("loss", weight="zero_N"), Term("also", weight="tokens"))

        def prepare(self, batch):
            return {"zero_N": torch.zeros(len(batch))}

        def loss(self, batch):
            return Loss(batch.responses.policy_N)

        def also(self, batch):
            return Loss(-batch.responses.policy_NT)

    got, metrics = accumulated(Weightless(SFT.options()), 5, batch=PAIRS_AS_TEXT)
    want, _ = accumulated(SFT(SFT.options()), 5, batch=PAIRS_AS_TEXT)
    assert_close(got, want)
    assert metrics["loss"] == pytest.approx(metrics["also"])


class Shaped(SFT):
    terms = (Term("loss", weight="rows"),)


class Negative(SFT):
    terms = (Term("loss", weight="minus_N"),)

    def prepare(self, batch):
        return {"minus_N": -torch.ones(len(batch))}


class TooFew(SFT):
    def prepare(self, batch):
        return {"short_N": torch.ones(3)}


REFUSED = [
    (Shaped, r"loss\(\) returned \(12, 4\), but its weight 'rows' is \(12,\)"),
    (Negative, "'minus_N' of term 'loss' is negative: signs belong in the value"),
    (TooFew, r"'short_N' of prepare\(\) has 3 rows, not 12"),
]


@pytest.mark.parametrize("cls, message", REFUSED)
def test_wrong_shapes_and_weights_are_refused(cls, message):
    with pytest.raises(ValueError, match=message):
        accumulated(cls(SFT.options()), N, batch=PAIRS_AS_TEXT)


def test_an_objective_that_needs_a_reference_gets_one_or_an_error():
    with pytest.raises(ValueError, match="needs reference log-probs, and the run has no ref"):
        annotate(Bigram(), None, PAIRS, Needs(reference=True))


def test_a_role_whose_terms_have_no_weight_has_no_gradient():
    """Not zeros: an optimizer with momentum would move it by them."""

    class Half(ActorCritic):
        terms = (*ActorCritic.terms[:1], Term("critic", role="critic", weight="zero_N"))

        def prepare(self, batch):
            return {**super().prepare(batch), "zero_N": torch.zeros(len(batch))}

    raw = Rollouts(ragged(N, 3), torch.linspace(-1, 1, N), torch.arange(N) // 4)

    def gradients(processes=None):
        policy, objective = Bigram(), Half(Config())
        accumulate(policy, objective, streams(policy, objective, processes, batch=raw), processes)
        return policy.policy_VV.grad, policy.critic_V.grad

    for actor, critic in (gradients(), *in_two_processes(gradients)):
        assert actor.abs().max() > 0
        assert critic is None
