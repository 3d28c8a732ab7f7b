"""SFT gives TRL's loss and TRL's gradient: the mean over all trained tokens of the batch.

Random LoRA B, ragged lengths, the padding id is the EOS action, float32. TRL counts the tokens of
a whole step in SFT, so here it may cut the step into micro-batches of its own; in its other
trainers it averages their means.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from parity.peer import CUTS, WARNINGS, assert_equal, demonstration_rows, ours, trl
from tiny import policy, ragged_pairs

from trimtab.core.batches import Demonstrations
from trimtab.objectives.sft import SFT

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder)


@pytest.fixture(scope="module")
def responses():
    """Completions of 2 to 12 tokens, the last of each the EOS action."""
    return ragged_pairs().chosen


def with_a_users_turn(responses):
    """Every fourth token of a completion is not the assistant's, nor the first."""
    places_T = torch.arange(responses.tokens_NT.shape[1])
    return replace(responses, mask_NT=responses.mask_NT & (places_T % 4 != 1))


@pytest.mark.parametrize("loss", ["nll", "dft"])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_completions_only(model, folder, responses, loss, accumulation):
    rows = demonstration_rows(responses, "completion_mask")
    size = len(rows) // accumulation
    want = trl(
        "SFT",
        model,
        folder,
        rows,
        loss_type=loss,
        completion_only_loss=True,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
    )
    for cut in CUTS.values():
        got = ours(model, SFT(SFT.options(loss=loss)), Demonstrations(responses), *cut)
        assert_equal(got, want)


def test_assistant_turns_only(model, folder, responses):
    turns = with_a_users_turn(responses)
    want = trl("SFT", model, folder, demonstration_rows(turns, "assistant_masks"))
    for cut in CUTS.values():
        assert_equal(ours(model, SFT(SFT.options()), Demonstrations(turns), *cut), want)
