"""How time and memory grow with the tokens of a step: the rows times 1, 2, 4 and 8.

    python -m trimtab.benchmarks.growth --objective dpo --shape short --dtype float32

Ours reads ``micro_tokens`` at a time, so its memory should stay and its time should be in
proportion. With ``--trl``, TRL at its defaults, which reads 8 rows at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trimtab.benchmarks import report
from trimtab.benchmarks.against_trl import measured
from trimtab.benchmarks.job import Job
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.shapes import SHAPES

FACTORS = (1, 2, 4, 8)


def main(
    objective: Annotated[str, typer.Option(help="dpo or sft")] = "dpo",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or nf4")] = "float32",
    shape: Annotated[str, typer.Option(help=", ".join(SHAPES))] = "short",
    rows: Annotated[int, typer.Option(help="of the smallest step")] = 8,
    steps: Annotated[int, typer.Option(help="measured, of each process")] = 3,
    rounds: Annotated[int, typer.Option(help="measurements of each size")] = 2,
    micro_tokens: Annotated[int, typer.Option(help="ours: tokens in a forward")] = 512,
    trl: Annotated[bool, typer.Option(help="measure TRL too")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON; Markdown goes beside it")] = None,
) -> None:
    """Measure every size, alternating, and write."""
    jobs = [
        Job.model_validate(
            {
                "arm": f"{name}, x{factor}",
                "system": system,
                "objective": objective,
                "dtype": dtype,
                "shape": shape,
                "rows": rows * factor,
                "steps": steps,
                "micro_tokens": micro_tokens,
            }
        )
        for factor in FACTORS
        for system, name in (("trimtab", "Trimtab"), ("trl", "TRL"))[: 2 if trl else 1]
    ]
    path = out or Path("benchmarks", "results", f"growth-{objective}-{dtype}-{shape}.json")
    where = machine()
    taken = [{one.arm: measured(one) for one in jobs} for _ in range(rounds)]
    report.write(path, where, taken, report.growing(where, taken))
    typer.echo(path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
