"""What every objective's gradient must be like, one claim a function. See ``conformance``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from trimtab.core.batches import Batch, Labelled, Pairs, Ranked
from trimtab.core.checks import NEGLIGIBLE, require
from trimtab.core.examples import (
    Example,
    OneOf,
    same,
    tables_of,
    widen,
    with_terms,
    without_tokens,
)
from trimtab.core.objective import Objective
from trimtab.core.policy import POLICY

BF16 = 0.1
"""How far a gradient in bfloat16 may be from the exact one, relative to its size."""


def check_microbatch_invariance(o: Objective) -> None:
    """The gradient is that of the whole batch, however it is split."""
    example = Example.random(o)
    whole = example.gradient()
    for size in (1, 2, 4, 5):
        message = (
            f"gradient changes when the batch is split by {size}: "
            "move whole-batch statistics to prepare()"
        )
        require(same(whole, example.gradient(microbatch=size)), message)


def check_process_invariance(o: Objective) -> None:
    """Two processes with half of the rows each add up to the gradient of one."""
    example = Example.random(o)
    parts = [example.gradient(processes=OneOf(rank, 2)) for rank in (0, 1)]
    total = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    message = (
        "gradient changes with two processes: keep what an update changes in state, not in self"
    )
    require(same(example.gradient(), total), message)


def check_row_order(o: Objective) -> None:
    """Rows are a set."""
    example = Example.random(o)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = example.map_rows(lambda batch: batch[order])
    message = "gradient depends on the order of rows"
    require(same(example.gradient(), shuffled.gradient()), message)


def check_masked_tokens_get_no_gradient(o: Objective) -> None:
    """Only tokens to train are trained."""
    example = Example.random(o)
    grads = example.gradient()
    for stream in example.raw.values():
        for name, sequences in stream.sequences.items():
            outside = sequences.tokens_NT[~sequences.mask_NT]
            clean = all(bool((grad[outside] == 0).all()) for grad in grads.values())
            message = (
                f"{name}: tokens outside the mask get gradient: sum over mask_NT, "
                "or read policy_N, logratio_N"
            )
            require(clean, message)


def check_padding_invariance(o: Objective) -> None:
    """Wider batches give the same gradient."""
    example = Example.random(o)
    wider = {"completion": partial(widen, completion=3), "prompt": partial(widen, prompt=3)}
    for part, change in wider.items():
        wide = example.map_rows(change)
        message = f"gradient changes with {part} padding: divide by count_N, not by a width"
        require(same(example.gradient(), wide.gradient()), message)


def check_small_batches_are_finite(o: Objective) -> None:
    """A row without a token to train, and a batch of one row, break nothing."""
    example = Example.random(o)
    cases = {
        "a row has no token to train": example.map_rows(without_tokens),
        "the batch has one row": example.map_rows(lambda batch: batch[torch.tensor([0])]),
    }
    for case, small in cases.items():
        finite = all(bool(grad.isfinite().all()) for grad in small.gradient().values())
        numbers = torch.tensor(list(small.metrics().values()))
        message = f"not finite when {case}: guard every mean and every deviation"
        require(finite and bool(numbers.isfinite().all()), message)


def check_half_precision_is_close(o: Objective) -> None:
    """On bfloat16 numbers the gradient is close to the exact one."""
    half = Example.random(o).cast(torch.bfloat16)
    exact = half.cast(torch.float64).gradient()
    for name, grad in half.gradient().items():
        error = float((grad.double() - exact[name]).norm() / exact[name].norm().clamp(min=1e-12))
        message = (
            f"the gradient of {name!r} is {error:.0%} off in bfloat16: is a small difference "
            "of large numbers taken, or a small number added to a large one?"
        )
        require(error < BF16, message)


def check_gradient_is_not_negligible(o: Objective) -> None:
    """Each term alone moves its role."""
    for term in o.terms:
        grads = Example.random(with_terms(o, [term])).gradient()
        largest = max(float(grads[table].abs().max()) for table in tables_of(o, term.role))
        message = (
            f"the largest gradient of term {term.method!r} is {largest:.0e}: it trains nothing"
        )
        require(largest > NEGLIGIBLE, message)


def check_soft_labels(o: Objective) -> None:
    """Pairs come with and without preferences, and certain ones mean what hard labels mean;
    rankings come with probabilities and margins."""
    if not issubclass(o.data, (Pairs, Ranked)):
        return
    what = "preference_N" if issubclass(o.data, Pairs) else "better_NKK between 0 and 1"
    hard, soft = Example.random(o), Example.random(o, soft=True)
    finite = all(bool(grad.isfinite().all()) for grad in soft.gradient().values())
    require(finite, f"gradient is not finite with {what}")
    require(
        same(soft.gradient(), soft.gradient(microbatch=1)),
        f"gradient with {what} changes when the batch is split by 1",
    )
    certain = hard.map_rows(_certain)
    require(
        same(hard.gradient(), certain.gradient()),
        "a preference_N of 1 differs from None, which means the same",
    )


def _certain(batch: Batch) -> Batch:
    """Pairs with a preference of 1."""
    if not isinstance(batch, Pairs):
        return batch
    return replace(batch, preference_N=torch.ones(len(batch), dtype=torch.float64))


def check_pushes_the_right_way(o: Objective) -> None:
    """A descent step raises what the feedback prefers."""
    example = Example.random(o)
    roles = [term.role for term in o.terms]
    grad = example.gradient()[POLICY if POLICY in roles else roles[0]]
    batch = example.raw["batch"]
    up = {name: -grad[s.tokens_NT].sum(-1) for name, s in batch.sequences.items()}
    if isinstance(batch, Pairs):
        right = up["chosen"].sum() > up["rejected"].sum()
        require(bool(right), "a step does not raise chosen over rejected")
    elif isinstance(batch, Ranked):
        right = up["responses_0"].sum() > up["responses_1"].sum()
        require(bool(right), "a step does not raise the better response over the other")
    elif isinstance(batch, Labelled):
        good_N = batch.desirable_N
        right = up["responses"][good_N].sum() > up["responses"][~good_N].sum()
        require(bool(right), "a step does not raise desirable over undesirable")
    elif hasattr(batch, "reward_N"):
        right = up["responses"][batch.reward_N.argmax()] > 0
        require(bool(right), "a step does not raise the best response")
    else:
        right = up[next(iter(up))].sum() > 0
        require(bool(right), "a step does not raise the demonstrations")
