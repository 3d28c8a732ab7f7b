"""PPO's memory by GRPO's on the same batch, and by that of four separate models.

    python -m trimtab.benchmarks.ppo_memory --dtype nf4

Every arm samples the same number of tokens, asks a reward model and a reference, and makes one
update. ``PPO, four copies`` runs the same passes with policy, reference, critic and reward model
each on a base of its own, as PPO is often written. Each measurement is a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from trimtab.benchmarks import options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.online import OnlineJob, OnlineResult, in_own_process
from trimtab.benchmarks.start import ADAPTER
from trimtab.core.config import ModelConfig
from trimtab.core.embedded import NAME
from trimtab.core.model import load_base
from trimtab.core.roles import Roles

Round = dict[str, OnlineResult]
GRPO = "GRPO"
COPIES = "PPO, four copies"


def main(
    dtype: options.Dtype = "float32",
    model: options.Model = NAME,
    rows: Annotated[int, typer.Option(help="completions of a step")] = 16,
    group: Annotated[int, typer.Option(help="completions of a prompt")] = 8,
    limit: Annotated[int, typer.Option(help="tokens of a completion")] = 48,
    steps: options.Steps = 2,
    rounds: options.Rounds = 2,
    micro_tokens: options.MicroTokens = 512,
    out: options.Out = None,
) -> None:
    """Measure, compare, write."""
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        reward = Path(folder) / "reward"
        _write_reward_model(model, reward)
        job = OnlineJob.model_validate(
            {
                "arm": GRPO,
                "system": "trimtab",
                "dtype": dtype,
                "model": model,
                "rows": rows,
                "group": group,
                "limit": limit,
                "beta": 0.05,
                "steps": steps,
                "micro_tokens": micro_tokens,
                "reward": str(reward),
            }
        )
        ppo = {"objective": "ppo"}
        jobs = [
            job,
            job.model_copy(update={"arm": "PPO", **ppo}),
            job.model_copy(update={"arm": "PPO, trunk critic", **ppo, "critic": "trunk"}),
            job.model_copy(update={"arm": COPIES, **ppo, "copies": True}),
        ]
        taken = [{one.arm: _measured(one) for one in jobs} for _ in range(rounds)]
    record = {
        "machine": where,
        "rounds": [
            {arm: one.model_dump(exclude={"job": {"reward"}}) for arm, one in each.items()}
            for each in taken
        ],
    }
    path = options.results(out, f"ppo-memory-{dtype}")
    report.publish(path, record, text(where, taken))


def text(where: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """Markdown."""
    job = rounds[0][GRPO].job
    lines = []
    for arm in rounds[0]:
        against = [
            Spread.of([each[arm].peak / each[other].peak for each in rounds]).show()
            for other in (GRPO, COPIES)
        ]
        lines.append(
            [
                arm,
                report.mega(Spread.of([each[arm].peak for each in rounds])),
                report.mega(Spread.of([each[arm].peak - each[arm].loaded for each in rounds])),
                *against,
                Spread.of([s for each in rounds for s in each[arm].seconds]).show(),
            ]
        )
    head = ["arm", "peak MB", "beyond the models", "by GRPO's", "by four copies'", "s a step"]
    return report.page(
        f"# PPO's memory, {job.dtype}",
        f"{Path(job.model).name}, adapters of rank 16 on all linear layers; {job.rows} "
        f"completions of {job.limit} tokens in groups of {job.group}, scored by a reward model, "
        f"with a reference, one update; {job.micro_tokens} tokens in a forward. {len(rounds)} "
        f"rounds of {job.steps} steps after {job.warmup} of warm-up, each measurement in a "
        "process of its own. Values are medians [least, greatest].",
        report.surroundings(where),
        report.table(head, lines),
    )


def _measured(job: OnlineJob) -> OnlineResult:
    result = in_own_process(job)
    typer.echo(f"{job.arm}: peak {result.peak / report.MEGA:.0f} MB")
    return result


def _write_reward_model(model: str, folder: Path) -> None:
    """An adapter with a head, as it was drawn: what it says costs what a trained one's costs."""
    plain = ModelConfig(name=model, quantization="none", dtype="float32", adapter=ADAPTER)
    base = load_base(plain, torch.device("cpu"))
    Roles(base, ADAPTER, scalar=["reward"], policy=False).save("reward", folder, model)


if __name__ == "__main__":
    typer.run(main)
