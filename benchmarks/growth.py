"""How time and memory grow with the tokens of a step: the rows times 1, 2, 4 and 8.

    python -m trimtab.benchmarks.growth --objective dpo --shape short --dtype float32

Ours reads ``micro_tokens`` at a time, so its memory should stay and its time should be in
proportion. With ``--trl``, TRL at its defaults, which reads 8 rows at a time.
"""

from __future__ import annotations

from typing import Annotated

import typer

from trimtab.benchmarks import options, report
from trimtab.benchmarks.against_trl import measured
from trimtab.benchmarks.machine import machine
from trimtab.core.embedded import NAME

FACTORS = (1, 2, 4, 8)


def main(
    objective: options.Objective = "dpo",
    dtype: options.Dtype = "float32",
    shape: options.Shape = "short",
    model: options.Model = NAME,
    rows: options.Rows = 8,
    steps: options.Steps = 3,
    rounds: options.Rounds = 2,
    micro_tokens: options.MicroTokens = 512,
    trl: Annotated[bool, typer.Option(help="measure TRL too")] = False,
    out: options.Out = None,
) -> None:
    """Measure every size, alternating, and write."""
    job = options.defaults(
        objective=objective,
        dtype=dtype,
        shape=shape,
        model=model,
        steps=steps,
        micro_tokens=micro_tokens,
    )
    jobs = [
        job.model_copy(
            update={"arm": f"{name}, x{factor}", "system": system, "rows": rows * factor}
        )
        for factor in FACTORS
        for system, name in (("trimtab", "Trimtab"), ("trl", "TRL"))[: 2 if trl else 1]
    ]
    where = machine()
    taken = [{one.arm: measured(one) for one in jobs} for _ in range(rounds)]
    path = options.results(out, f"growth-{objective}-{dtype}-{shape}")
    report.write(path, where, taken, report.growing(where, taken))


if __name__ == "__main__":
    typer.run(main)
