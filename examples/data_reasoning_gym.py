"""Questions of a reasoning-gym task with answers that a program checks, as rows of prompts.

    pip install -c constraints.txt reasoning-gym==0.1.25
    python examples/data_reasoning_gym.py OUT_FOLDER [--task NAME] [--set OPTION=NUMBER ...]

``OUT_FOLDER/train.jsonl`` and ``test.jsonl``, which ``data.train: OUT_FOLDER`` reads, hold
different questions: ``prompt`` (a turn), ``answer``, and ``entry``, which the reward
``{name: verifier, kind: reasoning_gym}`` gives to the task to score a completion with.

The default is sums and differences of two numbers below 100, which SmolLM2-135M-Instruct sometimes
gets right. The package generates the questions from the seed, and they repeat: each is kept once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = "pip install -c constraints.txt reasoning-gym==0.1.25"
TASK = "chain_sum"
OPTIONS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}


def main() -> None:
    """Generate, and write both parts."""
    parser = argparse.ArgumentParser(description="Write questions of a reasoning-gym task.")
    parser.add_argument("out", type=Path, help="the folder to write to")
    parser.add_argument("--task", default=TASK, help="its name in the package")
    parser.add_argument("--set", action="append", default=[], help="an option, as max_digits=3")
    parser.add_argument("--train", type=int, default=1024, help="questions to train on")
    parser.add_argument("--test", type=int, default=128, help="questions held out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    options = {**(OPTIONS if given.task == TASK else {}), **parsed(given.set)}
    made = list(rows(given.task, options, given.train + given.test, given.seed))
    given.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", made[: given.test]), ("train", made[given.test :])):
        path = given.out / f"{name}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        print(f"{path}: {len(part)} questions")


def parsed(settings: list[str]) -> dict[str, int]:
    """Options from ``name=number``."""
    return {name: int(value) for name, _, value in (one.partition("=") for one in settings)}


def rows(task: str, options: dict[str, int], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Different questions, as many as asked for, or as many as four times that has."""
    try:
        import reasoning_gym
    except ModuleNotFoundError:
        raise SystemExit(f"the tasks are in a package that is not here: {COMMAND}") from None
    generated = reasoning_gym.create_dataset(task, size=4 * count, seed=seed, **options)
    asked: set[str] = set()
    for entry in generated:
        if entry["question"] not in asked and len(asked) < count:
            asked.add(entry["question"])
            yield {
                "prompt": [{"role": "user", "content": entry["question"]}],
                "answer": entry["answer"],
                "entry": entry,
            }


if __name__ == "__main__":
    main()
