"""The model card of a run: what it was made from, how, and what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

- Data: `{file.data.train}`, {rows.get("kept", "?")} rows kept of {rows.get("read", "?")} read
- Base held as {file.model.quantization}, computed in {parts.model.dtype}
- Start: {file.model.start or "the base itself"}

## Held-out measures

{_table(run)}

Intervals are 95%, by bootstrap over rows. On data rows `logratio` is not a KL; `kl_sequence` is
estimated from completions that the policy itself sampled. The whole run file is `config.yaml`;
what it was given is `config.source.yaml`, versions are in `env.json`.
"""


def _table(run: Run) -> str:
    if not run.evaluations:
        return "None were taken by the process that finished this run: see `evals.jsonl`."
    first, last = min(run.evaluations), max(run.evaluations)
    names = [name for name in run.evaluations[last].measures if not name.startswith("_")]
    lines = [f"| measure | step {first} | step {last} | n |", "|---|---|---|---|"]
    for name in names:
        before = run.evaluations[first].measures.get(name)
        after = run.evaluations[last].measures[name]
        lines.append(f"| {name} | {said(before)} | {said(after)} | {after.n} |")
    return "\n".join(lines)


def said(measure: Measure | None) -> str:
    """``0.675 [0.590, 0.757]``."""
    if measure is None:
        return ""
    return f"{measure.value:.4g} [{measure.low:.4g}, {measure.high:.4g}]"
