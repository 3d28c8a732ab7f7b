"""Memory and speed of sft, dpo, grpo and ppo on one GPU, at 1k context in groups of 8.

    python -m trimtab.benchmarks.on_gpu

Two Llamas of random weights in nf4, of SmolLM2-135M's shape and of 8B: nothing is downloaded or
written but the results. Each measurement is a process of its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.benchmarks import options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.job import Kind
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.process import ask
from trimtab.benchmarks.worker_on_gpu import GpuJob, GpuResult

OBJECTIVES: tuple[Kind, ...] = ("sft", "dpo", "grpo", "ppo")


def main(
    size: Annotated[list[str] | None, typer.Option(help="tiny, smollm2-135m, llama-8b")] = None,
    rows: Annotated[int, typer.Option(help="completions of a step")] = 16,
    prompt: Annotated[int, typer.Option(help="tokens")] = 768,
    completion: Annotated[int, typer.Option(help="tokens")] = 256,
    steps: options.Steps = 3,
    micro_tokens: options.MicroTokens = 8192,
    out: options.Out = None,
) -> None:
    """Measure, write."""
    where = machine()
    found = []
    for one in size or ["smollm2-135m", "llama-8b"]:
        for objective in OBJECTIVES:
            job = GpuJob(
                size=one,
                objective=objective,
                rows=rows,
                prompt=prompt,
                completion=completion,
                steps=steps,
                micro_tokens=micro_tokens,
            )
            found.append(ask("worker_on_gpu", job, GpuResult))
            typer.echo(_line(found[-1]))
    lines = [_line(one) for one in found]
    head = ["model", "objective", "s a step", "of it sampling", "tokens/s", "sampled/s", "peak MB"]
    text = report.page(
        "# Four objectives on one device",
        f"Llamas of random weights in nf4, LoRA of rank 16 on all linear layers, activations "
        f"recomputed; {rows} completions a step (dpo: {rows // 2} pairs) in groups of 8, prompts "
        f"of {prompt} tokens, completions of {completion}; {micro_tokens} tokens in a forward, "
        "with prefix sharing, AdamW. grpo with a KL, ppo with a critic of its own, one update "
        f"each. Medians [least, greatest] of {steps} steps after one of warm-up. Tokens/s are "
        "those of prompts and completions, each counted once, by a step's whole time.",
        report.surroundings(where),
        report.table([*head, "beyond the model"], lines),
    )
    record = {"machine": where, "results": [one.model_dump() for one in found]}
    report.publish(options.results(out, "on-gpu"), record, text)


def _line(result: GpuResult) -> list[str]:
    job = result.job
    tokens = -(-job.rows // job.group) * job.prompt + job.rows * job.completion
    sampled = job.rows * job.completion
    spread = Spread.of(result.seconds)
    sampling = Spread.of(result.sampling)
    return [
        job.size,
        job.objective,
        spread.show(),
        f"{sampling.middle:.2f}",
        f"{tokens / spread.middle:.0f}",
        f"{sampled / sampling.middle:.0f}" if sampling.middle else "",
        f"{result.peak / report.MEGA:.0f}",
        f"{(result.peak - result.loaded) / report.MEGA:.0f}",
    ]


if __name__ == "__main__":
    typer.run(main)
