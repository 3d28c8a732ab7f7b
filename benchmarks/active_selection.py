"""Active against random selection of the pairs that people label, at the same budget.

    python -m trimtab.benchmarks.active_selection --home runs/active

The pairs are critics' own of rotten-tomatoes: a fresh and a rotten snippet of one movie, and the
label says which is which. Each seed is one run. An ensemble of reward models learns from a few
labelled pairs; ``selection`` takes ``budget`` pairs of a pool, those on which its members disagree
most, or at random; ``labels`` adds the critics' marks of these to the first labels; another
ensemble learns from all of them, and is measured on pairs of movies that no other part has. Both
arms share the first ensemble. A run that was cut short goes on, and one that is finished is read.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from scipy.stats import t

from trimtab import resume, train
from trimtab.benchmarks import options, report
from trimtab.benchmarks.machine import machine
from trimtab.core.embedded import NAME
from trimtab.plugins.sources.rotten_tomatoes import is_held_out, snippets, title
from trimtab.plugins.sources.rotten_tomatoes import pairs as views_pairs

ARMS = ("disagreement", "random")
MEASURES = ("accuracy", "ece", "bradley_terry")
FIRST = "first"
"""What the ensemble of the first pairs is called."""

Pair = dict[str, Any]


def marked(completions: Sequence[str], fresh: Sequence[str]) -> list[float]:
    """The critics' marks, as a reward: 1 for the fresh snippet of the pair, 0 for the other."""
    return [
        float(one.strip() == good.strip()) for one, good in zip(completions, fresh, strict=True)
    ]


def main(
    home: Annotated[Path, typer.Option(help="where runs are made, and gone on with")],
    model: options.Model = NAME,
    seeds: Annotated[int, typer.Option(help="how many")] = 5,
    first: Annotated[int, typer.Option(help="pairs that are labelled at the start")] = 48,
    budget: Annotated[int, typer.Option(help="pairs that are labelled later")] = 48,
    pool: Annotated[int, typer.Option(help="pairs to choose from")] = 300,
    held_out: Annotated[int, typer.Option(help="pairs to measure with")] = 200,
    longest: Annotated[int, typer.Option(help="characters of a snippet")] = 120,
    members: Annotated[int, typer.Option(help="of an ensemble")] = 3,
    epochs: Annotated[int, typer.Option(help="over the labelled pairs")] = 3,
    rate: Annotated[float, typer.Option(help="learning rate")] = 3e-4,
    out: options.Out = None,
) -> None:
    """Train what is not trained yet, compare, write."""
    where = machine()
    sizes = {"first": first, "budget": budget, "pool": pool, "held_out": held_out}
    how = {
        **sizes,
        "longest": longest,
        "members": members,
        "epochs": epochs,
        "learning_rate": rate,
    }
    found = []
    for seed in range(seeds):
        run = home / f"seed-{seed}"
        if (run / "run.json").exists():
            resume(run)
        else:
            train(_run_file(home / f"data-{seed}", model, seed, how), run)
        found.append(measures(run))
        typer.echo(json.dumps({"seed": seed, **found[-1]}))
    record = {
        "machine": where,
        "model": Path(model).name,
        **how,
        "measured_on": _last(home / "seed-0/stages" / FIRST / "evals.jsonl")["accuracy"]["n"],
        "seeds": found,
        "differences": {name: difference(found, name) for name in MEASURES},
    }
    report.publish(options.results(out, "active_selection"), record, text(record))


def measures(run: Path) -> dict[str, dict[str, float]]:
    """What each ensemble is worth at its end, on the held-out pairs."""
    stages = {FIRST: FIRST, **{arm: f"fitted-{arm}" for arm in ARMS}}
    return {
        arm: {name: last[name]["value"] for name in MEASURES}
        for arm, stage in stages.items()
        for last in [_last(run / "stages" / stage / "evals.jsonl")]
    }


def difference(found: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> dict[str, float]:
    """Disagreement less random, by seed: the mean, and its 95% interval by Student's t."""
    gaps = [one[ARMS[0]][name] - one[ARMS[1]][name] for one in found]
    if len(gaps) < 2:
        return {"mean": gaps[0]}
    half = float(t.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / len(gaps) ** 0.5
    return {"mean": mean(gaps), "low": mean(gaps) - half, "high": mean(gaps) + half}


def text(record: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [
        [str(seed), *(_show(one, arm) for arm in (FIRST, *ARMS))]
        for seed, one in enumerate(record["seeds"])
    ]
    gaps = [[name, *_interval(record["differences"][name])] for name in MEASURES]
    return report.page(
        "# Active and random selection, at the same number of labels",
        f"{record['model']}, float32, adapters of rank 16: an ensemble of {record['members']} "
        f"reward models learns from {record['first']} pairs of critics, and with "
        f"{record['budget']} more that are chosen among {record['pool']}, anew; "
        f"{record['epochs']} epochs, learning rate {record['learning_rate']:g}. Measured on "
        f"{record['measured_on']} pairs of movies that are in no other part. No snippet has more "
        f"than {record['longest']} characters. Pairs are drawn anew for each seed.",
        report.surroundings(record["machine"]),
        "Accuracy, and expected calibration error in brackets:",
        report.table(["seed", "first pairs alone", "by disagreement", "at random"], rows),
        "By disagreement less at random, seed by seed; 95% intervals over seeds (Student's t):",
        report.table(["measure", "mean", "interval"], gaps),
    )


def _show(one: Mapping[str, Mapping[str, float]], arm: str) -> str:
    return f"{one[arm]['accuracy']:.3f} ({one[arm]['ece']:.3f})"


def _interval(gap: Mapping[str, float]) -> list[str]:
    sides = f"[{gap['low']:+.3f}, {gap['high']:+.3f}]" if "low" in gap else "one seed has none"
    return [f"{gap['mean']:+.3f}", sides]


def _last(evals: Path) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(evals.read_text(encoding="utf-8").splitlines()[-1])
    return made


def _run_file(home: Path, model: str, seed: int, how: Mapping[str, Any]) -> Path:
    """The data and the run file of a seed."""
    home.mkdir(parents=True, exist_ok=True)
    generator = random.Random(seed)
    ours = list(_pairs(how["longest"], held_out=False))
    theirs = list(_pairs(how["longest"], held_out=True))
    generator.shuffle(ours)
    generator.shuffle(theirs)
    first, pool = ours[: how["first"]], ours[how["first"] :][: how["pool"]]
    _write(home / "first.jsonl", first)
    _write(home / "held-out.jsonl", theirs[: how["held_out"]])
    _write(home / "pool.jsonl", [_unlabelled(one, generator) for one in pool])
    file = home / "run.yaml"
    file.write_text(json.dumps(_sections(home, model, seed, how), indent=1), encoding="utf-8")
    return file


def _sections(home: Path, model: str, seed: int, how: Mapping[str, Any]) -> dict[str, Any]:
    first = str(home / "first.jsonl")
    stages: list[dict[str, Any]] = [{"name": FIRST, "data": {"train": first}}]
    for arm in ARMS:
        ensemble = [{"name": "reward_model", "from": f"stages.{FIRST}"}]
        labels = {"name": "labels", "by": "reward", "earlier": [first]}
        marks = {"name": "function", "function": f"{marked.__module__}:marked"}
        stages += [
            {
                "name": f"chosen-{arm}",
                "objective": None,
                "source": {"name": "selection", "by": arm, "budget": how["budget"]},
                "data": {"train": str(home / "pool.jsonl")},
                "reward": ensemble if arm == "disagreement" else [],
            },
            {
                "name": f"labelled-{arm}",
                "objective": None,
                "source": labels,
                "data": {"train": f"stages.chosen-{arm}"},
                "reward": [marks],
            },
            {"name": f"fitted-{arm}", "data": {"train": f"stages.labelled-{arm}"}},
        ]
    return {
        "model": {"name": model, "quantization": "none", "dtype": "float32"},
        "data": {"train": first, "eval": str(home / "held-out.jsonl"), "eval_limit": None},
        "objective": {"name": "reward_model", "members": how["members"]},
        "train": {
            "epochs": how["epochs"],
            "rows": 8,
            "learning_rate": how["learning_rate"],
            "seed": seed,
        },
        "stages": stages,
    }


def _pairs(longest: int, *, held_out: bool) -> Iterator[Pair]:
    """As plain text: the chat template would cost as many tokens as a snippet."""
    for movie, columns in views_pairs(snippets()):
        chosen, rejected = (columns[side][0]["content"] for side in ("chosen", "rejected"))
        if is_held_out(movie) == held_out and max(len(chosen), len(rejected)) <= longest:
            yield {
                "prompt": f"A review of the movie {title(movie)}:",
                "chosen": f" {chosen}",
                "rejected": f" {rejected}",
            }


def _unlabelled(pair: Pair, generator: random.Random) -> dict[str, Any]:
    """A row to choose and label: the responses in any order, and what the critics would say."""
    both = [pair["chosen"], pair["rejected"]]
    generator.shuffle(both)
    return {"prompt": pair["prompt"], "responses": both, "fresh": pair["chosen"]}


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
