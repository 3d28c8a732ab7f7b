"""KTO gives TRL's loss and TRL's gradient, for both losses that both have.

Random LoRA B, so that the policy is not its reference; ragged lengths; the padding id is the EOS
action; float32. Where the definitions differ, and what is compared instead:

- TRL's z0 is of one process's micro-batch: the next rows' completions behind this row's prompt,
  moved on within ``per_device_train_batch_size`` rows, whatever their prompts are. TRL gets one
  batch of all rows and the mismatched completions that ours has, which are moved on likewise; ours
  is cut in several ways.
- TRL averages over processes the z0 of each, and then clamps; ours is one mean over all rows.
"""

from __future__ import annotations

import pytest
import torch
from parity.peer import CUTS, WARNINGS, assert_equal, labelled_rows, ours, trl
from tiny import policy, ragged_labels

from trimtab.core.columns import annotate
from trimtab.objectives.kto import KTO
from trimtab.plugins.references.adapter_off import AdapterOff, AdapterOffConfig

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

BETA = 1.0
"""Log-ratios are then between -4 and 4: the sigmoids bend, and none is flat."""

BATCHES = {"positive": ragged_labels(seed=7), "clamped": ragged_labels(seed=4)}
"""By what z0 is before the clamp."""

WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.6}

BOTH = {
    "weights": ("positive", WEIGHTS),
    "clamped": ("clamped", WEIGHTS),
    "small beta": ("positive", {"beta": 0.1}),
    "apo_zero_unpaired": ("positive", {"loss": "apo_zero_unpaired"} | WEIGHTS),
}


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder, spread=0.05)


def by_ours(model, batch, cut="all rows", **options):
    return ours(model, KTO(KTO.options(**{"beta": BETA} | options)), batch, *CUTS[cut])


def by_trl(model, folder, batch, **options):
    theirs = {"loss_type" if name == "loss" else name: value for name, value in options.items()}
    return trl("KTO", model, folder, labelled_rows(batch), **{"beta": BETA} | theirs)


@pytest.mark.parametrize("z0", BATCHES)
def test_the_batches_have_both_signs_of_the_mean(model, z0):
    objective = KTO(KTO.options())
    batch = annotate(model, AdapterOff(AdapterOffConfig()), BATCHES[z0], objective.needs)
    mean = float(batch.mismatched.logratio_N.mean())
    assert mean > 0.3 if z0 == "positive" else mean < -0.3


@pytest.mark.parametrize("case", BOTH)
def test_loss_and_gradient_however_ours_is_cut(model, folder, case):
    z0, options = BOTH[case]
    want = by_trl(model, folder, BATCHES[z0], **options)
    for cut in CUTS:
        assert_equal(by_ours(model, BATCHES[z0], cut, **options), want)


def test_a_batch_of_one_label(model, folder):
    batch = BATCHES["positive"]
    batch = batch[(~batch.desirable_N).nonzero()[:, 0]]
    assert len(batch) == 3
    assert_equal(by_ours(model, batch), by_trl(model, folder, batch))


def test_trl_moves_completions_on_as_the_batch_does():
    """So that the rows that TRL gets are those that its own preparation would have made."""
    rows = labelled_rows(BATCHES["positive"])
    completions = [row["completion_ids"] for row in rows]
    assert [row["KL_completion_ids"] for row in rows] == completions[-1:] + completions[:-1]
    batch = BATCHES["positive"]
    assert torch.equal(batch.mismatched.prompt_NP, batch.responses.prompt_NP)
