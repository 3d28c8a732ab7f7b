"""The model card of a run: what it was made from, how, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.measures import Measure

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run


def model_card(run: Run, parts: Parts) -> str:
    """Markdown with the front matter that hubs read."""
    file = run.file
    rows = parts.source.describe()
    return f"""---
base_model: {file.model.name}
library_name: {"transformers" if file.model.adapter is None else "peft"}
tags: [trimtab, {file.objective.name}]
---
# {run.directory.path.resolve().name}

`{file.model.name}` aligned with the objective `{file.objective.name}` by Trimtab, in
{parts.steps} steps of {file.train.rows} rows, seed {file.train.seed}.

- Data: `{file.data.train}`{_rows(rows)}
- Base held as {file.model.quantization}, computed in {parts.model.dtype}
- Start: {Path(file.model.start).name if file.model.start else "the base itself"}

## Held-out measures

{_table(run.directory.records("evals"))}

Intervals are 95%, by bootstrap over rows. On data rows `logratio` is not a KL; `kl_sequence` is
estimated from completions that the policy itself sampled. The whole run file is `config.yaml`;
what it was given is `config.source.yaml`, versions are in `env.json`.
"""


def _rows(account: Mapping[str, Any]) -> str:
    if "train_rows" not in account:
        return ""
    return f", {account['read']} rows read, {account['train_rows']} trained on"


def _table(evaluations: list[dict[str, Any]]) -> str:
    if not evaluations:
        return "No rows were held out."
    first, last = evaluations[0], evaluations[-1]
    lines = [f"| measure | step {first['step']} | step {last['step']} | n |", "|---|---|---|---|"]
    for name, after in last.items():
        if name != "step":
            lines.append(f"| {name} | {_said(first.get(name))} | {_said(after)} | {after['n']} |")
    return "\n".join(lines)


def _said(measure: Mapping[str, Any] | None) -> str:
    return said(Measure(**measure)) if measure else ""


def said(measure: Measure) -> str:
    """``0.675 [0.590, 0.757]``; a number that was not finite is null in the log."""
    value, low, high = (
        "not finite" if number is None else f"{number:.4g}"
        for number in (measure.value, measure.low, measure.high)
    )
    return f"{value} [{low}, {high}]"
