"""Measure TRL: its real ``train()``, on rows that it need not tokenize."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trimtab.benchmarks.job import TRL, Job, Result
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.shapes import Example, cut, labelled, shifted
from trimtab.benchmarks.start import ADAPTER, base, randomise
from trimtab.benchmarks.trl_trainer import adapter, defaults, trainer
from trimtab.core.model import load_tokenizer


class Clock(TrainerCallback):
    """When training began, and when each step had ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *arguments: Any, **more: Any) -> None:
        """Nothing has been read yet."""
        self.times.append(time.perf_counter())

    def on_step_end(self, *arguments: Any, **more: Any) -> None:
        """The optimizer has stepped."""
        self.times.append(time.perf_counter())


def measure(job: Job, folder: Path) -> Result:
    """Build the trainer, give its adapter our start, train."""
    rows = [row for examples in cut(job) for row in _rows(job, examples)]
    model, tokenizer = base(job), load_tokenizer(job.model)
    lora = {"r": ADAPTER.rank, "lora_alpha": 2 * ADAPTER.rank, "target_modules": ADAPTER.targets}
    began, loaded = time.perf_counter(), held()
    kind, options = TRL[job.objective], _options(job, folder)
    made = trainer(kind, model, tokenizer, rows, lora, options)
    preparation = time.perf_counter() - began if job.reference == "warm" else 0.0
    randomise(adapter(made))
    clock = Clock()
    made.add_callback(clock)
    made.train()
    steps = [end - begin for begin, end in zip(clock.times, clock.times[1:], strict=False)]
    parts = len(made.losses) // len(steps)
    return Result(
        job=job,
        seconds=steps[job.warmup :],
        losses=[sum(made.losses[i : i + parts]) for i in range(0, len(made.losses), parts)],
        peak=peak(),
        loaded=loaded,
        preparation=preparation,
    )


def _rows(job: Job, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The rows of a step, as TRL holds them once it has tokenized them."""
    if job.objective == "dpo":
        return [
            {"prompt_ids": one.prompt, "chosen_ids": one.chosen, "rejected_ids": one.rejected}
            for one in examples
        ]
    if job.objective == "kto":
        return _labelled(examples, job.at_a_time)
    if job.objective == "reward_model":
        return [
            {"chosen_ids": one.prompt + one.chosen, "rejected_ids": one.prompt + one.rejected}
            for one in examples
        ]
    return [
        {
            "input_ids": one.prompt + one.chosen,
            "completion_mask": [0] * len(one.prompt) + [1] * len(one.chosen),
        }
        for one in examples
    ]


def _labelled(examples: Sequence[Example], at_a_time: int) -> list[dict[str, Any]]:
    """TRL shifts the completions within each micro-batch."""
    completions, desirable = labelled(examples)
    mismatched = [
        one
        for begin in range(0, len(completions), at_a_time)
        for one in shifted(completions[begin : begin + at_a_time])
    ]
    return [
        {
            "prompt_ids": one.prompt,
            "completion_ids": own,
            "KL_completion_ids": other,
            "label": good,
        }
        for one, own, other, good in zip(examples, completions, mismatched, desirable, strict=True)
    ]


def _options(job: Job, folder: Path) -> dict[str, Any]:
    """TRL's defaults, but for what makes the comparison one."""
    options = defaults(job, folder) | {"train_sampling_strategy": "sequential"}
    if job.objective == "sft":
        options["completion_only_loss"] = True
    if job.reference == "warm":
        options["precompute_ref_log_probs"] = True
    return options


if __name__ == "__main__":
    serve(Job, measure)
