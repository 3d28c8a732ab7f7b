"""The model card of a run: what it was made from, how, and what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.measures import Measure
from trimtab.core.merging import based, merge_said
from trimtab.core.policy import POLICY
from trimtab.core.watch import of_the_result, watched

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run

Measures = Mapping[str, Mapping[str, Any]]

SHOWN = 3
"""Prompts whose answers are shown."""

LONGEST = 300
"""Characters of a text that are shown."""

BINNED = ("confidence/", "reliability/")
"""Measures of a bin each, which are easier to read side by side."""


def model_card(run: Run, parts: Parts) -> str:
    """Markdown with the front matter that hubs read."""
    file = run.file
    base = based(file.model, run.directory.path).name
    rows = parts.source.describe()
    return f"""---
base_model: {file.model.name}
library_name: {"transformers" if file.model.adapter is None else "peft"}
tags: [trimtab, {file.learns.name}]
---
# {run.directory.path.resolve().name}

`{file.model.name}` aligned with the objective `{file.learns.name}` by Trimtab, in
{_steps(run, parts)} of {file.train.rows} rows, seed {file.train.seed}.

- Data: `{file.data.named}`{_rows(rows)}
- Base held as {file.model.quantization}, computed in {parts.model.dtype}
- Start: {_start(run)}
{_learned_from(run, parts)}{_watched(run)}
{"" if POLICY in parts.model.roles.names else _loading(base)}## Held-out measures

{_held_out(_to_show(run), parts)}

{_reading(parts)}

{_samples(run)}The whole run file is `config.yaml`; what it was given is
`config.source.yaml`, versions are in `env.json`.
"""


def _steps(run: Run, parts: Parts) -> str:
    """How many there were; ``36 of 72 steps`` where the watch ended the run."""
    stopped = (watched(run.directory.path) or {}).get("stopped")
    return f"{parts.steps} steps" if stopped is None else f"{stopped} of {parts.steps} steps"


def _watched(run: Run) -> str:
    """Which step the result is of, and why, where a reward was watched."""
    found = watched(run.directory.path)
    if found is None:
        return ""
    of, best, label = found["adapter"], found["best"], found["reward"]
    start = ", so nothing that was learned since was better" if of == 0 else ""
    said = f"the best by it{start}" if of == best else f"the last; the best by it is {best}"
    ended = "Over-optimised, and so stopped" if found["stopped"] is not None else "Not stopped"
    return (
        f"- Watched: `{label}`. The result is of step {of}, {said}.\n  {ended}: {found['why']}\n"
    )


def _to_show(run: Run) -> list[dict[str, Any]]:
    """The first evaluation, that of the result and the last, each once."""
    evaluations: list[dict[str, Any]] = run.directory.records("evals")
    result = of_the_result(run.directory.path, evaluations)
    steps = {found["step"] for found in (*evaluations[:1], result, *evaluations[-1:]) if found}
    return [evaluation for evaluation in evaluations if evaluation["step"] in steps]


def _start(run: Run) -> str:
    """What the run started from, and what became of it."""
    model = run.file.model
    if model.start is None:
        return "the base itself"
    name = Path(model.start).name
    if model.start_as == "stack":
        return f"{name}, which is in the adapter too: it is the sum of both"
    said = merge_said(run.directory.path)
    return name if said is None else f"{name}; {said}"


def _rows(account: Mapping[str, Any]) -> str:
    if "train_rows" not in account:
        return ""
    return f", {account['read']} rows read, {account['train_rows']} trained on"


def _learned_from(run: Run, parts: Parts) -> str:
    """The rewards, and how completions were sampled to learn from them, where they were."""
    file, source = run.file, parts.source
    if not file.reward:
        return ""
    rewards = [
        f"`{reward.label or reward.name}` ({reward.name}, "
        f"{f'weight {reward.weight:g}' if reward.weight else 'only watched'})"
        for reward in file.reward
    ]
    said = f"- Rewards: {', '.join(rewards)}\n"
    if source.fixed:
        return said
    rollout = file.rollout
    return (
        f"{said}- Rollouts: {rollout.group or parts.objective.group} completions of each prompt, "
        f"of at most {rollout.max_new_tokens} tokens,\n  at temperature {rollout.temperature:g}, "
        f"by the engine `{rollout.engine.name}`\n"
    )


def _samples(run: Run) -> str:
    """What the first held-out prompts were answered with, before and after."""
    answers: dict[int, list[Mapping[str, Any]]] = {
        evaluation["step"]: [] for evaluation in _to_show(run)
    }
    if not answers:
        return ""
    for sample in run.directory.records("samples"):
        if sample["held_out"] and sample["step"] in answers:
            answers[sample["step"]].append(sample)
    lines = [
        line
        for told in zip(*answers.values(), strict=False)
        for line in (_quoted(told[0]["prompt"]), *map(_answer, told), "")
    ]
    texts = lines[: (len(answers) + 2) * SHOWN]
    return "\n".join(["## Samples", "", *texts, ""]) if texts else ""


def _answer(sample: Mapping[str, Any]) -> str:
    reward = sample["reward"]
    scored = "" if reward is None else f", reward {reward:.4g}"
    return f"- step {sample['step']}{scored}: {_quoted(sample['completion'])}"


def _quoted(text: str) -> str:
    """On one line, as code, whatever is in it; its end where it is long."""
    line = " ".join(text.split()) or "(nothing)"
    line = line if len(line) <= LONGEST else f"...{line[-LONGEST:]}"
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if len(ticks) > 1 else f"`{line}`"


def _reading(parts: Parts) -> str:
    """How the measures are to be read."""
    if POLICY in parts.model.roles.names:
        return """Intervals are 95%, by bootstrap over rows. On data rows `logratio` is not a KL;
`kl_sequence` is estimated from completions that the policy itself sampled."""
    return """Intervals are 95%, by bootstrap over rows. `accuracy` and `ece` are of comparisons
that are no ties; `accuracy_longer` is where the preferred completion is longer."""


def _loading(base: str) -> str:
    """How the first scalar role scores without us."""
    return f"""## Loading

It scores a prompt with its completion, written by the model's chat template. Members of an
ensemble are loaded one by one, each from its own folder.

```python
model = AutoModelForSequenceClassification.from_pretrained("{base}", num_labels=1)
model = PeftModel.from_pretrained(model, "adapter")
center = json.load(open("adapter/scores.json"))["center"]
```

`model(**tokens).logits[:, 0] - center` is 0 on average over the held-out completions. Pad on the
right with the model's own padding token. `trimtab score DIR FILE` does all of it.

"""


def _folder(role: str, parts: Parts) -> str:
    """Where a role's adapter is, as ``write_results`` puts it."""
    return "adapter" if role == parts.model.roles.names[0] else f"roles/{role}"


def _held_out(evaluations: list[dict[str, Any]], parts: Parts) -> str:
    """The measures; apart from them how reliable confidence is, and the members of an ensemble."""
    if not evaluations:
        return "No rows were held out."
    last = {name: measure for name, measure in evaluations[-1].items() if name != "step"}
    roles = [role for role in parts.model.roles.names if role in parts.model.roles.scalar]
    apart = tuple(f"/{role}" for role in roles)
    main = [n for n in last if not n.endswith(apart) and not n.startswith(BINNED)]
    tables = [_changes(main, evaluations)]
    bins = [n for n in last if n.startswith(BINNED[0]) and not n.endswith(apart)]
    if bins:
        tables.append(_reliability([name.removeprefix(BINNED[0]) for name in bins], last))
    if len(roles) > 1:
        tables.append(_members(roles, last, parts))
    return "\n\n".join(tables)


def _changes(names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> str:
    steps = " | ".join(f"step {evaluation['step']}" for evaluation in evaluations)
    lines = [f"| measure | {steps} | n |", f"|---|{'---|' * len(evaluations)}---|"]
    for name in names:
        cells = " | ".join(_said(evaluation.get(name)) for evaluation in evaluations)
        lines.append(f"| {name} | {cells} | {evaluations[-1][name]['n']} |")
    return "\n".join(lines)


def _reliability(bins: Sequence[str], last: Measures) -> str:
    """Where the model is so confident, how often is it right?"""
    lines = ["| confidence | its mean | right | n |", "|---|---|---|---|"]
    for name in bins:
        mean, right = (last[f"{which}{name}"] for which in BINNED)
        lines.append(f"| {name} | {mean['value']:.4g} | {_said(right)} | {right['n']} |")
    return "\n".join(lines)


def _members(roles: Sequence[str], last: Measures, parts: Parts) -> str:
    """Each member of an ensemble alone."""
    lines = ["| member | folder | accuracy | ece | score |", "|---|---|---|---|---|"]
    for role in roles:
        folder = _folder(role, parts)
        cells = " | ".join(
            _said(last.get(f"{name}/{role}")) for name in ("accuracy", "ece", "score")
        )
        lines.append(f"| {role} | `{folder}` | {cells} |")
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
