"""Tokens a second of what can sample from a policy, beside the limit of its matrix products.

    python -m trimtab.benchmarks.decoding

Ours with the weights that are trained (float32, nf4) and with a bfloat16 copy, against the
``generate`` and ``generate_batch`` of transformers on the same float32 policy: the same prompts,
the same number of tokens for every row, alternating in one process. The limit is measured beside
them: the products of one token's forward, with the weights of every linear layer, at the rows of
the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple

import torch
import typer
from torch import Tensor, nn

from trimtab.benchmarks import options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.machine import machine
from trimtab.core.config import AdapterConfig, ModelConfig
from trimtab.core.embedded import NAME
from trimtab.core.engine import EngineSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.model import compute_dtype, device, load_base
from trimtab.core.policy import POLICY
from trimtab.core.roles import Roles
from trimtab.core.sampling import uniforms
from trimtab.core.scratch import plain_copy
from trimtab.plugins.engines.transformers import TransformersConfig, TransformersEngine

Precision = Literal["float32", "bfloat16"]
MICRO_TOKENS = 2048
"""Enough for all rows to be sampled at once."""

PAGE = 64
"""Tokens in a page of ``generate_batch``'s cache."""


class Task(NamedTuple):
    """What every arm answers: ``group`` completions of each prompt, of ``tokens`` tokens."""

    prompts: list[list[int]]
    group: int
    tokens: int

    @property
    def asked(self) -> list[list[int]]:
        """One prompt a completion."""
        return [prompt for prompt in self.prompts for _ in range(self.group)]


class Arm(NamedTuple):
    """A sampler, and the precision of its matrix products."""

    name: str
    precision: Precision
    sample: Callable[[int], int]
    """Samples with a seed; returns how many tokens."""


def policy(model: str, quantization: str) -> LanguageModel:
    """With an adapter that changes it, as in the middle of a training run."""
    config = ModelConfig.model_validate(
        {
            "name": model,
            "quantization": quantization,
            "dtype": "float32",
            "gradient_checkpointing": False,
        }
    )
    roles = Roles(load_base(config, device()), AdapterConfig())
    for name, parameter in roles.named_parameters(POLICY).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.01)
    return LanguageModel(roles, dtype=compute_dtype(config, device()), micro_tokens=MICRO_TOKENS)


def ours(name: str, model: LanguageModel, task: Task, config: TransformersConfig) -> Arm:
    """Our engine, which also records log-probs and entropies."""
    engine = TransformersEngine(config)
    engine.open(EngineSetting(ModelConfig(), model, None, frozenset()))

    def sample(seed: int) -> int:
        drawn = uniforms(seed, 0, range(len(task.asked)), task.tokens)
        made = engine.sample(task.asked, drawn, temperature=1.0)
        return sum(len(one.tokens) for one in made)

    return Arm(name, "bfloat16" if config.precision == "bfloat16" else "float32", sample)


def theirs(model: LanguageModel, task: Task) -> Arm:
    """``generate`` with a cache, on the rows of all groups at once."""
    ids = torch.tensor(task.asked, device=model.device)

    def sample(seed: int) -> int:
        torch.manual_seed(seed)
        with model.role(POLICY):
            made = model.base.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=_settings(task),
            )
        return int(made[:, ids.shape[1] :].numel())

    return Arm("generate, float32", "float32", sample)


def continuous(model: LanguageModel, task: Task) -> Arm:
    """``generate_batch``: transformers' continuous batching over a paged cache.

    The cache has the size of the task: its default is most of the memory that is free.
    """
    from transformers import ContinuousBatchingConfig

    length = len(task.prompts[0]) + task.tokens
    paged = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=(len(task.asked) + 1) * (-(-length // PAGE) + 1),
        max_batch_tokens=len(task.asked) * len(task.prompts[0]),
        max_requests_per_batch=len(task.asked),
    )

    def sample(seed: int) -> int:
        torch.manual_seed(seed)
        with model.role(POLICY):
            made = model.base.generate_batch(
                task.asked,
                generation_config=_settings(task),
                continuous_batching_config=paged,
                persistent_manager=True,
                warmup=False,
            )
        count = sum(len(one.generated_tokens) for one in made.values())
        if count != len(task.asked) * task.tokens:
            raise RuntimeError(f"{count} tokens instead of {len(task.asked) * task.tokens}")
        return count

    return Arm("generate_batch, float32", "float32", sample)


def _settings(task: Task) -> Any:
    """The same distribution, and no end before the last token."""
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=task.tokens,
        eos_token_id=None,
        pad_token_id=0,
    )


@torch.no_grad()
def products(weights: Sequence[Tensor], rows: int) -> float:
    """Seconds of one token's matrix products, each layer's with its own weight."""
    inputs = {
        weight.shape[1]: torch.randn(rows, weight.shape[1], device=weight.device).to(weight.dtype)
        for weight in weights
    }
    began = time.monotonic()
    for weight in weights:
        result = nn.functional.linear(inputs[weight.shape[1]], weight)
    float(result[0, 0])  # waits for a GPU
    return time.monotonic() - began


def linear_weights(base: Any) -> list[Tensor]:
    """Of every linear layer, the head included; of adapters none."""
    return [
        module.weight
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]


def measure(arms: Sequence[Arm], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Tokens a second of each arm in each round, after one for warmth; and who failed, and why."""
    speeds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        for arm in arms:
            if arm.name in failed:
                continue
            began = time.monotonic()
            try:
                count = arm.sample(number)
            except Exception as error:  # what a peer cannot do here is a result too
                failed[arm.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                continue
            if number:
                speeds[arm.name].append(count / (time.monotonic() - began))
    return {name: some for name, some in speeds.items() if some}, failed


def text(
    where: Mapping[str, Any],
    record: Mapping[str, Any],
    arms: Sequence[Arm],
) -> str:
    """Markdown."""
    speeds, limits, failed = record["tokens_per_second"], record["limits"], record["failed"]
    rows = [
        [
            arm.name,
            Spread.of(speeds[arm.name]).show(1),
            f"{median(speeds[arm.name]) / median(limits[arm.precision]):.2f}",
        ]
        for arm in arms
        if arm.name in speeds
    ]
    rows += [
        [f"limit of the products, {name}", Spread.of(some).show(1), ""]
        for name, some in limits.items()
    ]
    return report.page(
        "# Decoding",
        f"{record['model']}, LoRA of rank 16 on all linear layers; {record['prompts']} prompts of "
        f"{record['prompt_tokens']} tokens with {record['group']} completions of "
        f"{record['tokens']} tokens each. Values are new tokens a second, the prompts' reading "
        "included: medians [least, greatest]. Ours records log-probs and entropies, the others "
        "do not. The limit leaves out prompts, adapters and attention; nf4 is set beside that of "
        "float32, in which it computes.",
        report.surroundings(where),
        report.table(["arm", "tokens a second", "share of its limit"], rows),
        *(f"{name} failed here: {why}" for name, why in failed.items()),
    )


def main(
    model: options.Model = NAME,
    prompts: Annotated[int, typer.Option(help="distinct ones")] = 2,
    group: Annotated[int, typer.Option(help="completions of each")] = 8,
    prompt_tokens: Annotated[int, typer.Option(help="of each prompt")] = 40,
    tokens: Annotated[int, typer.Option(help="of each completion")] = 48,
    rounds: Annotated[int, typer.Option(help="measured")] = 5,
    out: options.Out = None,
) -> None:
    """Measure and write."""
    where = machine()
    plain, quantized, paged = (policy(model, kind) for kind in ("none", "nf4", "none"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, plain.vocabulary, (prompts, prompt_tokens), generator=generator)
    task = Task(ids.tolist(), group, tokens)
    arms = [
        ours("Trimtab, float32", plain, task, TransformersConfig()),
        ours("Trimtab, nf4", quantized, task, TransformersConfig()),
        ours("Trimtab, bfloat16 copy", plain, task, TransformersConfig(precision="bfloat16")),
        theirs(plain, task),
        continuous(paged, task),
    ]
    speeds, failed = measure(arms, rounds)
    paged.base.destroy_cached_continuous_batching_manager()
    rows = len(task.asked)
    copied = plain_copy(plain.base, [POLICY], torch.bfloat16)
    weights: dict[Precision, list[Tensor]] = {
        "float32": linear_weights(plain.base),
        "bfloat16": linear_weights(copied),
    }
    limits: dict[str, list[float]] = {name: [] for name in weights}
    for number in range(4 * rounds + 1):
        for name, some in weights.items():
            seconds = products(some, rows)
            if number:
                limits[name].append(rows / seconds)
    record = {
        "machine": where,
        "model": Path(model).name,
        **{"prompts": prompts, "prompt_tokens": prompt_tokens, "group": group, "tokens": tokens},
        "tokens_per_second": speeds,
        "limits": limits,
        "failed": failed,
    }
    report.publish(options.results(out, "decoding"), record, text(where, record, arms))


if __name__ == "__main__":
    typer.run(main)
