"""A reward model has TRL's loss and TRL's gradient, of the adapter and of the head.

Random LoRA B and a random head, the same on both sides; ragged lengths; float32. The padding id is
the EOS action, so that neither side reads a score at the EOS, or it is another token, so that both
do. Where the definitions differ, and what is compared instead:

- TRL has pairs alone, with hard labels. A ranking is the mean over its pairs, and a soft label the
  mean over both orders: tests/test_reward_model.py.
- TRL's ``margin`` is of pairs whose chosen response is the first, as here.
- TRL averages the means of its micro-batches; ours divides once. TRL gets one batch of all rows,
  and ours is cut in several ways.
"""

from __future__ import annotations

import pytest
import torch
from parity.peer import CUTS, WARNINGS, assert_equal, comparison_rows, ours, trl
from tiny import policy, ragged_pairs, save_tiny

from trimtab.core.batches import Ranked
from trimtab.core.model import load_tokenizer
from trimtab.objectives.reward_model import RewardModel

pytestmark = [pytest.mark.filterwarnings(warning) for warning in WARNINGS]

CENTERING = {"center_rewards_coefficient": 0.3}


@pytest.fixture(scope="module", params=["pad is eos", "pad is another token"])
def folder(request, tmp_path_factory):
    pad = 2 if request.param == "pad is eos" else 0
    made = save_tiny(tmp_path_factory.mktemp("tiny"), pad_token_id=pad)
    tokenizer = load_tokenizer(str(made))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    tokenizer.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return policy(folder, scalar=("reward",), language=False, spread=0.1)


def rankings(*, margins):
    """Pairs as rankings of two, the better one first."""
    pairs = ragged_pairs()
    better_NKK = torch.tensor([[torch.nan, 1.0], [0.0, torch.nan]]).expand(len(pairs), 2, 2)
    margin_N = torch.linspace(0.0, 2.0, len(pairs))
    margin_NKK = margin_N[:, None, None] * torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    return Ranked((pairs.chosen, pairs.rejected), better_NKK, margin_NKK if margins else None)


@pytest.mark.parametrize(("margins", "centering"), [(False, 0.0), (True, 0.3)])
def test_pairs(model, folder, margins, centering):
    batch = rankings(margins=margins)
    options = CENTERING if centering else {}
    want = trl("Reward", model, folder, comparison_rows(batch), **options)
    objective = RewardModel(RewardModel.options(centering=centering))
    for cut in CUTS.values():
        assert_equal(ours(model, objective, batch, *cut), want)
    assert "base_model.model.score.modules_to_save.weight" in want.gradients
