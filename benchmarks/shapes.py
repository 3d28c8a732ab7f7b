"""The rows that are measured on: token ids, the same for both systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch

from trimtab.benchmarks.job import Job, Kind
from trimtab.core.batches import Batch, Demonstrations, Labelled, Pairs, Ranked, sequences
from trimtab.core.config import DataConfig
from trimtab.core.embedded import NAME
from trimtab.core.model import load_tokenizer

EOS = 2
"""SmolLM2's ``<|im_end|>``, which it pads with, too."""

VOCABULARY = 49152

T = TypeVar("T")


class Example(NamedTuple):
    """A prompt with two completions. Demonstrations are the chosen ones.

    Of labelled completions, every second is a rejected one, and each has a prompt of its own.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """Of both sequences, the prompt counted twice."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


def short(rows: int) -> list[Example]:
    """Prompts of 64 tokens; completions of 8 to 24."""
    return _random(rows, prompt=64, shortest=8, longest=24)


def long(rows: int) -> list[Example]:
    """Prompts of 512 tokens; completions of 60."""
    return _random(rows, prompt=512, shortest=60, longest=60)


def rotten_tomatoes(rows: int) -> list[Example]:
    """Human pairs of the embedded data set, in the order of a run's first epoch."""
    from trimtab.plugins.sources.corpus import read_corpus
    from trimtab.plugins.sources.kinds import PAIRS
    from trimtab.plugins.sources.split import order

    data = DataConfig(train="rotten-tomatoes/pairs")
    train = read_corpus(data, PAIRS, load_tokenizer(NAME)).train
    if rows > len(train):
        raise ValueError(f"rotten-tomatoes has {len(train)} pairs to train on, not {rows}")
    kept = [train[i].tokens for i in order(len(train), 0, 0)[:rows]]
    return [
        Example(list(row.prompt), *(list(completion.ids) for completion in row.completions))
        for row in kept
    ]


SHAPES: dict[str, Callable[[int], list[Example]]] = {
    "short": short,
    "long": long,
    "rotten-tomatoes": rotten_tomatoes,
}


def cut(job: Job) -> list[list[Example]]:
    """The rows of each step of a job, those of its warm-up first."""
    steps = job.warmup + job.steps
    examples = SHAPES[job.shape](steps * job.rows)
    return [examples[i * job.rows : (i + 1) * job.rows] for i in range(steps)]


def batch(objective: Kind, examples: Sequence[Example]) -> Batch:
    """As our objectives read the rows of a step."""
    prompts = [example.prompt for example in examples]
    chosen = sequences(prompts, [example.chosen for example in examples])
    rejected = sequences(prompts, [example.rejected for example in examples])
    if objective == "sft":
        return Demonstrations(chosen)
    if objective == "kto":
        completions, desirable = labelled(examples)
        return Labelled(
            sequences(prompts, completions),
            torch.tensor(desirable),
            sequences(prompts, shifted(completions)),
        )
    if objective == "reward_model":
        better_KK = torch.tensor([[torch.nan, 1.0], [0.0, torch.nan]])
        return Ranked((chosen, rejected), better_KK.repeat(len(examples), 1, 1))
    return Pairs(chosen, rejected)


def labelled(examples: Sequence[Example]) -> tuple[list[list[int]], list[bool]]:
    """A completion of each prompt, and whether it is the chosen one: every second is."""
    desirable = [row % 2 == 0 for row in range(len(examples))]
    completions = [
        one.chosen if good else one.rejected for one, good in zip(examples, desirable, strict=True)
    ]
    return completions, desirable


def shifted(completions: Sequence[T]) -> list[T]:
    """The completion of the row before, for each row: KTO's mismatched ones, as TRL makes them.

    >>> shifted(["a", "b", "c"])
    ['c', 'a', 'b']
    """
    return [*completions[-1:], *completions[:-1]]


def _random(rows: int, *, prompt: int, shortest: int, longest: int) -> list[Example]:
    """Random tokens, the last of each completion the EOS action. What they say costs nothing."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    def completion() -> list[int]:
        drawn = torch.randint(shortest, longest + 1, (1,), generator=generator)
        return [*ids(int(drawn) - 1), EOS]

    return [Example(ids(prompt), completion(), completion()) for _ in range(rows)]
