"""The gradient of a real model is the same however its rows are laid out, cut and padded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import gradient, policy, ragged_pairs, relative, save_tiny

from trimtab import Config, Loss, Needs, Objective, Term
from trimtab.core.batches import Demonstrations, sequences, widened
from trimtab.core.columns import annotate, prepare
from trimtab.core.gradient import accumulate
from trimtab.core.layout import lay_out, rows_of
from trimtab.core.policy import POLICY, REFERENCE
from trimtab.objectives.dpo import DPO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

ALL, SOME, ONE = 4096, 110, 1
"""micro_tokens that give one micro-batch of all six rows, three or four, and six of one row"""

REFERENCE_OF = AdapterOff(AdapterOffConfig())


class Mixed(DPO):
    """Preferences by row, imitation by token and a weight of its own: three normalisers."""

    terms = (
        Term("loss"),
        Term("imitate", weight="tokens:chosen", scale=0.3),
        Term("reweighted", weight="share_N"),
    )

    def prepare(self, batch):
        return {"share_N": torch.linspace(0.1, 0.9, len(batch))}

    def imitate(self, batch):
        return Loss(-batch.chosen.policy_NT)

    def reweighted(self, batch):
        return Loss(batch.rejected.logratio_N)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def ours(model, batch, objective, *, micro_tokens=ALL, share=False):
    """The gradient that the core accumulates."""
    model.micro_tokens, model.share = micro_tokens, share
    filled = prepare(objective, annotate(model, REFERENCE_OF, batch, objective.needs))
    metrics = accumulate(model, objective, {"batch": filled})
    return gradient(model), metrics["loss"]


def by_hand(model, batch, side):
    """DPO's gradient by plain transformers calls over whole logits, padded on one side."""

    def logp_N(sequences, role):
        rows = rows_of({"": sequences})
        width = max(len(r.prompt) + len(r.completion) for r in rows)
        ids, seen, counted = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
        for i, row in enumerate(rows):
            length = len(row.prompt) + len(row.completion)
            begin = width - length if side == "left" else 0
            ids[i, begin : begin + length] = torch.tensor([*row.prompt, *row.completion])
            seen[i, begin : begin + length] = 1
            counted[i, begin + len(row.prompt) : begin + length] = 1
        position = (seen.cumsum(-1) - 1).clamp(min=0)
        with model.role(role), torch.set_grad_enabled(role == POLICY):
            logits = model.base(ids, attention_mask=seen, position_ids=position).logits
        logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return (logps * counted[:, 1:]).sum(-1)

    reference_N = logp_N(batch.chosen, REFERENCE) - logp_N(batch.rejected, REFERENCE)
    policy_N = logp_N(batch.chosen, POLICY) - logp_N(batch.rejected, POLICY)
    loss = torch.nn.functional.softplus(-0.1 * (policy_N - reference_N)).mean()
    for parameter in model.trained()[POLICY]:
        parameter.grad = None
    with model.role(POLICY):
        loss.backward()
    return gradient(model), float(loss.detach())


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradient_is_the_one_by_hand(tiny, side):
    model, batch = policy(tiny), ragged_pairs()
    want, loss = by_hand(model, batch, side)
    got, value = ours(model, batch, DPO(DPO.options()))
    assert value == pytest.approx(loss, rel=1e-5)
    assert relative(got, want) < 1e-5


@pytest.mark.parametrize("objective", [DPO, Mixed])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("micro_tokens", [SOME, ONE])
def test_micro_batches_and_sharing_change_nothing(tiny, objective, share, micro_tokens):
    model, batch, instance = policy(tiny), ragged_pairs(), objective(objective.options())
    want, loss = ours(model, batch, instance)
    got, value = ours(model, batch, instance, micro_tokens=micro_tokens, share=share)
    assert len(model.cut(batch)) == {ONE: 6, SOME: 3 if share else 4}[micro_tokens]
    assert value == pytest.approx(loss, rel=1e-5)
    assert relative(got, want) < 1e-5


def test_padding_of_the_batch_changes_nothing(tiny):
    model, batch, objective = policy(tiny), ragged_pairs(), DPO(DPO.options())
    wide = batch.with_sequences(
        {
            name: replace(
                s,
                tokens_NT=widened(s.tokens_NT, 40),
                mask_NT=widened(s.mask_NT, 40),
                prompt_NP=widened(s.prompt_NP, 50),
            )
            for name, s in batch.sequences.items()
        }
    )
    want, _ = ours(model, batch, objective)
    got, _ = ours(model, wide, objective)
    assert torch.equal(got, want)


def test_sharing_reads_one_copy_of_each_prompt():
    rows = rows_of(ragged_pairs().sequences)
    padded, shared = lay_out(rows, share=False), lay_out(rows, share=True)
    assert not padded.shared and shared.shared
    assert padded.input_BS.shape[0] == 12 and shared.input_BS.shape[0] == 6
    assert sorted(shared.target_M.tolist()) == sorted(padded.target_M.tolist())


def test_rows_that_share_nothing_are_padded():
    rows = rows_of({"": sequences([[1, 2], [3, 4]], [[5], [6, 7]])})
    assert not lay_out(rows, share=True).shared


def test_a_sequence_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="a prompt is empty"):
        lay_out(rows_of({"": sequences([[]], [[5]])}), share=False)


def test_the_eos_action_carries_gradient_though_it_is_the_padding_id(tiny):
    model = policy(tiny)
    batch = Demonstrations(sequences([[5, 6]], [[2]]))  # the completion is EOS, and nothing else

    class Imitate(Objective[Demonstrations, Config]):
        terms = (Term("loss", weight="tokens"),)

        def loss(self, batch):
            return Loss(-batch.responses.policy_NT)

    accumulate(model, Imitate(Config()), {"batch": batch})
    assert float(gradient(model).norm()) > 1e-3


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("share", [False, True])
def test_margin_is_exactly_0_before_training(tiny, quantization, share):
    model = policy(tiny, quantization=quantization, spread=0.0, share=share)
    batch = annotate(model, REFERENCE_OF, ragged_pairs(), Needs(reference=True))
    for rows in model.cut(batch):  # as the loop does: the same rows in the same order
        with model.role(POLICY):
            filled = model.forward(batch[rows].sequences, Needs())
        margin_N = filled["chosen"].logratio_N - filled["rejected"].logratio_N
        assert torch.equal(margin_N, torch.zeros(len(rows)))


def test_tokenwise_functions_see_both_distributions(tiny):
    def exact_kl(logps_cV, reference_cV):
        return (logps_cV.exp() * (logps_cV - reference_cV)).sum(-1)

    def entropy(logps_cV, reference_cV):
        return -(logps_cV.exp() * logps_cV).sum(-1)

    model, batch = policy(tiny), ragged_pairs()
    needs = Needs(tokenwise={"kl": exact_kl, "entropy": entropy}, tokenwise_reference=True)
    with model.role(POLICY):
        chosen = model.forward(batch.sequences, needs)["chosen"]
    row = rows_of({"": batch.chosen})[3]
    ids = torch.tensor([[*row.prompt, *row.completion]])
    logps = {}
    for role in (POLICY, REFERENCE):
        with model.role(role), torch.no_grad():
            states = model.base(ids).logits[0, len(row.prompt) - 1 : -1]
            logps[role] = states.log_softmax(-1)
    length = len(row.completion)
    for name, function in needs.tokenwise.items():
        want = function(logps[POLICY], logps[REFERENCE])
        torch.testing.assert_close(
            chosen.tokenwise_NT[name][3, :length], want, rtol=1e-4, atol=1e-5
        )
    assert float(chosen.tokenwise_NT["kl"][batch.chosen.mask_NT].detach().min()) > 0
    assert chosen.tokenwise_NT["kl"].requires_grad


def test_temperature_divides_the_logits(tiny):
    model, batch = policy(tiny), ragged_pairs()
    warm = {name: replace(s, temperature=0.5) for name, s in batch.sequences.items()}
    with model.role(POLICY), torch.no_grad():
        got = model.forward(warm, Needs())["chosen"].policy_NT[0, 0]
        row = rows_of({"": batch.chosen})[0]
        logits = model.base(torch.tensor([row.prompt])).logits[0, -1]
    assert float(got) == pytest.approx(float((logits / 0.5).log_softmax(-1)[row.completion[0]]))


def test_bf16_compute_is_close_to_float32(tiny):
    batch, objective = ragged_pairs(), DPO(DPO.options())
    want, _ = ours(policy(tiny), batch, objective)
    got, _ = ours(policy(tiny, dtype="bfloat16"), batch, objective)
    assert 1e-4 < relative(got, want) < 0.1


READ = [[5, 6], [7, 2, 2]], [[8, 2], [2, 2]]
"""Prompts and completions; 2 is EOS. The second completion is nothing but EOS actions."""


@pytest.mark.parametrize(
    ("pad", "places"),
    [
        (2, [2, 0]),  # padding is EOS: the token before it; of the second, one in the prompt
        (0, [3, 4]),  # padding is no token of these: the EOS action itself
        (None, [3, 4]),  # the model has no padding
    ],
)
def test_a_score_is_read_where_transformers_reads_it(pad, places):
    rows = rows_of({"": sequences(*READ)})
    layout = lay_out(rows, share=False, pad=pad)
    width = layout.input_BS.shape[1]
    assert layout.scored_E.tolist() == [0, 1]
    assert [end - row * width for row, end in enumerate(layout.end_E.tolist())] == places


def test_a_score_is_read_at_its_own_completion_in_a_shared_layout():
    rows = rows_of({"": sequences([[5, 6]] * 3, [[7, 8, 2], [2, 2], [9, 2]])})
    layout = lay_out(rows, share=True, pad=2)
    assert layout.shared and layout.input_BS.tolist() == [[5, 6, 7, 8, 2, 2, 2, 9, 2]]
    # the second completion is nothing but padding, and read at the prompt's end
    assert layout.end_E.tolist() == [3, 1, 7]


def test_an_empty_completion_scores_0_and_has_no_place(tiny):
    model = policy(tiny, scalar=("reward",), language=False)
    batch = Demonstrations(sequences([[5, 6], [7]], [[8, 2], []]))
    with model.role("reward"), torch.no_grad():
        score_N = model.forward(batch.sequences, Needs())["responses"].score_N
    assert score_N[0] != 0 and score_N[1] == 0
    assert lay_out(rows_of(batch.sequences), share=False).scored_E.tolist() == [0]
