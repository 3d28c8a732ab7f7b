"""Groups of completions in micro-batches and lines: another cut, the same gradient."""

from __future__ import annotations

import pytest
import torch
from tiny import gradient, policy, relative, save_tiny

from trimtab import Config, Loss, Objective, Term
from trimtab.core.batches import Demonstrations, sequences
from trimtab.core.batching import micro_batches, tokens
from trimtab.core.gradient import accumulate
from trimtab.core.layout import best_lines, lay_out, padded_lines, rows_of, shared_lines, size


class Imitate(Objective[Demonstrations, Config]):
    terms = (Term("loss", weight="tokens"),)

    def loss(self, batch):
        return Loss(-batch.responses.policy_NT)


def grouped(prompts, completions, seed=0):
    """A group for each length of a prompt, with completions of these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def ids(length):
        return torch.randint(3, 49000, (length,), generator=generator).tolist()

    asked = [ids(length) for length in prompts]
    rows = [(prompt, ids(length)) for prompt in asked for length in completions]
    return Demonstrations(sequences([p for p, _ in rows], [c for _, c in rows]))


def rows(batch):
    return rows_of(batch.sequences)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("micro_tokens", [1, 30, 60, 100, 1000])
def test_every_row_is_in_one_micro_batch_that_fits(micro_tokens, share):
    batch = grouped([9, 5, 12], [4, 11, 7, 2])
    cuts = micro_batches(batch, micro_tokens, share=share)
    assert sorted(i for cut in cuts for i in cut.tolist()) == list(range(12))
    for cut in cuts:
        assert len(cut) == 1 or tokens(rows(batch[cut]), share=share) <= micro_tokens


def test_rows_of_a_prompt_come_together():
    """Though rows of other prompts are as long."""
    batch = grouped([10, 10, 10], [5, 20, 10, 15])
    cuts = micro_batches(batch, 60, share=True)  # a group's line: 10 + 5 + 20 + 10 + 15
    assert sorted(sorted(cut.tolist()) for cut in cuts) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]


def test_a_group_that_does_not_fit_is_cut_evenly():
    """Not 7 rows and a last one that reads the prompt for itself."""
    batch = grouped([40], [64] * 8)
    cuts = micro_batches(batch, 512, share=True)
    assert [len(cut) for cut in cuts] == [4, 4]


def test_groups_are_cut_by_length_where_nothing_is_shared():
    batch = grouped([10, 10], [5, 20])
    cuts = micro_batches(batch, 60, share=False)
    assert [sorted(cut.tolist()) for cut in cuts] == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    ("prompt", "completion", "lines"),
    [(65, 25, 1), (40, 64, 2), (512, 16, 1), (4, 512, 8)],
)
def test_a_group_lies_in_as_many_lines_as_are_cheapest(prompt, completion, lines):
    """By SQUARE = 2300: (40, 64) costs 552 * 2852, 592 * 2596, 672 * 2468 in 1, 2, 4 lines."""
    found = best_lines(rows(grouped([prompt], [completion] * 8)), share=True)
    assert len(found) == lines
    assert size(found) <= size(padded_lines(rows(grouped([prompt], [completion] * 8))))


def test_lines_of_a_prompt_are_of_like_lengths():
    made = shared_lines(rows(grouped([3], [1, 2, 3, 4, 5, 6, 7, 8])), 2)
    assert [line.length for line in made] == [3 + 18, 3 + 18]
    assert sorted(i for line in made for i in line.rows) == list(range(8))


def test_no_gradient_depends_on_cuts_or_lines(tmp_path, monkeypatch):
    """Groups of four, padded, then in one and in two lines each, whole and cut."""
    model = policy(save_tiny(tmp_path, vocab_size=49152))
    batch = grouped([9, 6, 12], [4, 11, 7, 2])
    accumulate(model, Imitate(Config()), {"batch": batch})
    want = gradient(model)
    model.share = True
    lines = set()
    for square in (10**9, 0):
        monkeypatch.setattr("trimtab.core.layout.SQUARE", square)
        lines.add(lay_out(rows(batch), share=True).input_BS.shape[0])
        for micro_tokens in (4096, 60, 25, 1):
            model.micro_tokens = micro_tokens
            accumulate(model, Imitate(Config()), {"batch": batch})
            assert relative(gradient(model), want) < 1e-5
    assert lines == {3, 6}


def test_a_batch_without_rows_has_no_micro_batches():
    assert micro_batches(grouped([], []), 10, share=True) == []
