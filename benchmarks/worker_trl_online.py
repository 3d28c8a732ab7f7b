"""Measure TRL on rollouts: the real ``train()`` of its ``GRPOTrainer`` or ``RLOOTrainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trimtab.benchmarks.clock import timed
from trimtab.benchmarks.machine import held, peak
from trimtab.benchmarks.online import TRL, OnlineJob, OnlineResult, near_100
from trimtab.benchmarks.process import serve
from trimtab.benchmarks.start import ADAPTER, base
from trimtab.benchmarks.trl_trainer import defaults
from trimtab.benchmarks.worker_trl import Clock
from trimtab.core.config import DataConfig
from trimtab.core.model import load_tokenizer


def measure(job: OnlineJob, folder: Path) -> OnlineResult:
    """Build the trainer, time what a step consists of, train."""
    from datasets import Dataset
    from peft import LoraConfig

    lengths: list[int] = []

    def scored(completion_ids: Any, **more: Any) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return near_100(**more)

    steps = job.warmup + job.steps
    if job.warmup % job.ahead or job.steps % job.ahead:
        raise ValueError(f"steps and warm-up must be multiples of {job.ahead}")
    prompts = _prompts(job, steps * job.rows // job.group)
    made = _of_trl(f"{TRL[job.objective]}Trainer")(
        model=base(job),
        reward_funcs=scored,
        args=_of_trl(f"{TRL[job.objective]}Config")(**_options(job, folder)),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=load_tokenizer(job.model),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=ADAPTER.rank,
            lora_alpha=2 * ADAPTER.rank,
            target_modules="all-linear",
        ),
    )
    loaded = held()
    whole: list[float] = []
    rollout: list[float] = []
    score: list[float] = []
    timed(made, "_generate_and_score_completions", whole)
    timed(made, "_generate", rollout)
    timed(made, "_calculate_rewards", score)
    clock = Clock()
    made.add_callback(clock)
    made.train()
    ends = clock.times[:: job.ahead]
    seconds = [(after - before) / job.ahead for before, after in zip(ends, ends[1:], strict=False)]
    split = {
        "rollout": [taken / job.ahead for taken in rollout],
        "score": [taken / job.ahead for taken in score],
        "reference": [
            (all_ - one - other) / job.ahead
            for all_, one, other in zip(whole, rollout, score, strict=True)
        ],
    }
    split["train"] = [
        second - all_ / job.ahead for second, all_ in zip(seconds, whole, strict=True)
    ]
    drawn = job.rows * job.ahead
    tokens = [sum(lengths[i : i + drawn]) // job.ahead for i in range(0, len(lengths), drawn)]
    skip = job.warmup // job.ahead
    return OnlineResult(
        job=job,
        seconds=seconds[skip:],
        losses=[],
        peak=peak(),
        loaded=loaded,
        parts={name: taken[skip:] for name, taken in split.items()},
        tokens=tokens[skip:],
    )


def _of_trl(name: str) -> Any:
    import trl

    return getattr(trl, name)


def _prompts(job: OnlineJob, count: int) -> list[Any]:
    """The first requests of rotten-tomatoes, as turns."""
    from trimtab.plugins.sources.corpus import read_corpus
    from trimtab.plugins.sources.kinds import PROMPTS
    from trimtab.plugins.sources.split import order

    data = DataConfig(train="rotten-tomatoes/prompts")
    tokenizer = load_tokenizer(job.model)
    train = read_corpus(data, PROMPTS, tokenizer).train
    chosen = [train[i] for i in order(len(train), 0, 0)[:count]]
    return [tokenizer.decode(row.tokens.prompt) for row in chosen]


def _options(job: OnlineJob, folder: Path) -> dict[str, Any]:
    """TRL's defaults, but for what makes the comparison one."""
    options = defaults(job, folder) | {
        "steps_per_generation": job.ahead * job.rows // job.at_a_time,
        "num_generations": job.group,
        "max_completion_length": job.limit,
        "beta": job.beta,
        "use_transformers_continuous_batching": job.continuous,
        "shuffle_dataset": False,
    }
    if job.forced:
        options["generation_kwargs"] = {"min_new_tokens": job.limit}
    return options


if __name__ == "__main__":
    serve(OnlineJob, measure)
