"""Batches: rows stay whole, columns say when they are missing, padding means nothing."""

from dataclasses import replace

import pytest
import torch

from trimtab import Demonstrations, Pairs
from trimtab.core.batches import NotDeclared, join, sequences
from trimtab.testing import given

PAIRS = Pairs(
    chosen=given([[-1.0, -2.0], [-4.0]], [[-2.0, -2.0], [-1.0]]),
    rejected=given([[-1.0], [-8.0]], [[-1.0], [-8.0]]),
    preference_N=torch.tensor([0.9, 0.6]),
    row_N=torch.tensor([7, 3]),
)


def with_garbage(one):
    """Numbers outside the mask that would show."""
    garbage_NT = one.policy_NT.masked_fill(~one.mask_NT, 100.0)
    return replace(one, maybe_policy_NT=garbage_NT)


def test_sums_leave_out_what_is_not_trained():
    chosen = with_garbage(PAIRS.chosen)
    assert chosen.policy_N.tolist() == [-3.0, -4.0]
    assert chosen.logratio_N.tolist() == [1.0, -3.0]
    assert chosen.count_N.tolist() == [2, 1]


MISSING = [
    ("policy_NT", "terms of the role 'policy'"),
    ("reference_NT", r"ask for Needs\(reference=True\)"),
    ("behaviour_NT", r"ask for Needs\(behaviour=True\)"),
    ("values_NT", "terms of a scalar role"),
    ("logratio_N", "policy_NT is not in this batch"),
]


@pytest.mark.parametrize("column, remedy", MISSING)
def test_a_missing_column_says_what_to_declare(column, remedy):
    with pytest.raises(NotDeclared, match=remedy):
        getattr(sequences([[1]], [[2]]), column)


def test_rows_are_taken_whole():
    second = PAIRS[torch.tensor([1])]
    assert (len(second), second.row_N.tolist()) == (1, [3])
    assert second.preference_N.tolist() == pytest.approx([0.6])
    assert second.chosen.policy_N.tolist() == [-4.0]
    assert second.rejected.reference_NT.tolist() == [[-8.0]]


def test_prepared_columns_follow_their_rows():
    batch = PAIRS.with_columns({"weight_N": torch.tensor([1.0, 2.0])})
    assert batch[torch.tensor([1, 0])].columns["weight_N"].tolist() == [2.0, 1.0]


def test_join_pads_to_the_widest_and_trains_no_padding():
    short = Demonstrations(sequences([[1]], [[5]]), row_N=torch.tensor([0]))
    long = Demonstrations(sequences([[1, 2, 3]], [[6, 7, 8]]), row_N=torch.tensor([1]))
    both = join([short, long])
    assert both.responses.tokens_NT.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert both.responses.prompt_NP.tolist() == [[1, 0, 0], [1, 2, 3]]
    assert both.responses.count_N.tolist() == [1, 3]
    assert both.row_N.tolist() == [0, 1]
