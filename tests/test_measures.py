"""Held-out measures: literal values, and intervals that cover what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from trimtab.core.batches import Labelled
from trimtab.core.examples import given
from trimtab.core.measures import Column, Separation, measure, of_batch, rows


def separation(values, signs):
    return measure(Separation(torch.tensor(values), torch.tensor(signs)))


def test_a_ratio_of_sums():
    found = measure(Column(torch.tensor([2.0, 0.0, 4.0]), torch.tensor([1.0, 0.0, 2.0])))
    assert (found.value, found.n) == (2.0, 2)
    assert measure(Column(torch.zeros(3), torch.zeros(3))) is None


def test_separation_counts_pairs_in_the_right_order_and_half_of_the_ties():
    assert separation([3.0, 1.0, 2.0, 1.0], [1.0, 1.0, -1.0, -1.0]).value == 2.5 / 4
    assert separation([1.0, 2.0], [1.0, 1.0]) is None


@settings(max_examples=50, deadline=None)
@drawn(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12))
def test_separation_is_the_share_of_pairs_in_the_right_order(given_rows):
    positive = [value for value, good in given_rows if good]
    negative = [value for value, good in given_rows if not good]
    values, signs = zip(
        *((float(v), 1.0 if good else -1.0) for v, good in given_rows), strict=True
    )
    found = separation(list(values), list(signs))
    if not positive or not negative:
        assert found is None
        return
    right = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert found.value == pytest.approx(np.mean(right))


def test_intervals_cover_and_shrink():
    generator = torch.Generator().manual_seed(0)
    few, many = (measure(rows(torch.randn(n, generator=generator))) for n in (50, 5000))
    assert few.low < few.value < few.high and few.low < 0 < few.high
    assert (many.high - many.low) < (few.high - few.low) / 5


def test_labels_are_measured_by_how_well_they_are_told_apart():
    responses = given([[-1.0], [-2.0], [-3.0]], reference=[[-4.0], [-1.0], [-2.5]])
    batch = Labelled(responses, torch.tensor([True, False, False]), replace(responses))
    found = {name: measure(column) for name, column in of_batch(batch).items()}
    assert found["auc_logp"].value == found["auc_logratio"].value == 1.0
    worse = replace(batch, desirable_N=torch.tensor([False, True, False]))
    assert measure(of_batch(worse)["auc_logp"]).value == 0.5
