"""The card of a data set that a run made: where its rows come from, and what they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.core.run import Run

LONGEST = 2000
"""Characters of the example that are shown."""


def data_card(run: Run, account: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with the front matter that hubs read; ``rows`` is the data set."""
    made, source = account["made"], run.file.source
    assert source is not None
    given = {key: value for key, value in source.options.items() if value not in (None, [])}
    options = ", ".join(f"{key}: {_short(value)}" for key, value in given.items())
    by = f"`{source.name}`" + (f" ({options})" if options else "")
    logged = (run.directory.path / "samples.jsonl").is_file()
    samples = ", and all that was sampled or judged is in `samples.jsonl`" if logged else ""
    if (run.directory.path / "constitution.jsonl").is_file():
        samples += "; how each row came about\nis in `constitution.jsonl`"
    return f"""---
tags: [trimtab, {source.name}]
configs: [{{config_name: default, data_files: data/train.jsonl}}]
---
# {run.directory.path.resolve().name}

{made["written"]} rows that Trimtab made with the source {by}, seed {run.file.train.seed}.
They are in `data/train.jsonl`, one object a line.

{chr(10).join(_origin(run, account))}

## Columns

{_table(rows)}

{_example(rows)}The whole run file is `config.yaml`; what was counted is in
`data.json`, versions are in `env.json`{samples}.
"""


def _origin(run: Run, account: Mapping[str, Any]) -> Iterator[str]:
    """Where the rows come from, and what became of those that were read."""
    file, made = run.file, account["made"]
    yield f"- Data: `{file.data.named}`, {made['read']} rows read, {made['used']} used"
    for reason, count in Counter(row["reason"] for row in made["dropped"]).most_common():
        yield f"- Dropped: {count}, {reason}"
    if made["made"] > made["written"]:
        yield f"- Rows before the last choice among them: {made['made']}"
    elif made["made"] < made["written"]:
        yield f"- Rows of earlier data sets, which come first: {made['written'] - made['made']}"
    for name, count in made.get("counts", {}).items():
        if "/" not in name:
            yield f"- {name[:1].upper()}{name[1:]}: {count}"
    if _sampled(run):
        rollout = file.rollout
        start = (
            f", with the adapter of `{Path(file.model.start).name}`" if file.model.start else ""
        )
        yield f"- Sampled from: `{file.model.name}`, held as {file.model.quantization}{start}"
        yield (
            f"- Sampled: at most {rollout.max_new_tokens} tokens, at temperature "
            f"{rollout.temperature:g}"
        )
    for reward in file.reward if "rewards" in account else ():
        weight = f"weight {reward.weight:g}" if reward.weight else "only watched"
        yield f"- Reward: `{reward.label or reward.name}` ({reward.name}, {weight})"
    if "annotator" in account:
        yield f"- Annotator: `{account['annotator']}`"
    yield from _judge(account.get("judge", {}))


def _judge(figures: Mapping[str, Any]) -> Iterator[str]:
    """What is known of the judge, with 95% intervals."""
    if figures:
        yield f"- Judge: {figures['asked']} verdicts, {figures.get('requests', 0)} requests"
    for name, said in (("abstained", "Abstained"), ("agreement", "Its two orders agree")):
        if name in figures:
            yield f"- {said}: {_interval(figures[name])}"
    if "position_bias" in figures:
        yield f"- Position bias, 1 for always the first: {_interval(figures['position_bias'])}"
    for label, figure in figures.get("gold_agreement", {}).items():
        yield f"- Agreement with `{label}`: {_interval(figure)}"


def _interval(figure: Mapping[str, Any]) -> str:
    value, low, high = (f"{figure[name]:.3g}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}] of {figure['n']}"


def _sampled(run: Run) -> bool:
    """Does the policy answer anything in this run?"""
    assert run.file.source is not None
    return bool(run.registry.find("source", run.file.source.name).samples)


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Each column: in how many rows it is, and of numbers their mean and range."""
    there: Counter[str] = Counter()
    numbers: dict[str, list[float]] = {}
    for row in rows:
        there.update(row.keys())
        for name, value in row.items():
            numbers.setdefault(name, []).extend(_numbers(value))
    lines = ["| column | rows | mean | least | most |", "|---|---|---|---|---|"]
    for name, count in there.items():
        found = numbers[name]
        said = (sum(found) / len(found), min(found), max(found)) if found else ()
        lines.append(" | ".join([f"| `{name}`", str(count), *_three(said)]) + " |")
    return "\n".join(lines)


def _three(numbers: Sequence[float]) -> list[str]:
    return [f"{number:.4g}" for number in numbers] or [""] * 3


def _numbers(value: Any) -> list[float]:
    """The number, or the numbers in a list of nothing else."""
    each = value if isinstance(value, list) else [value]
    found = [float(one) for one in each if type(one) in (int, float)]
    return found if len(found) == len(each) else []


def _example(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    text = json.dumps(rows[0], indent=2, ensure_ascii=False)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}\n..."
    fence = "`" * (3 + text.count("```"))
    return f"## The first row\n\n{fence}json\n{shown}\n{fence}\n\n"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
