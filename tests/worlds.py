"""A small world to train in: a model, its tokenizer, rows, and run files; and runs in forks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MOVIES = ("Alien", "Amelie", "Heat", "Ran", "Brazil", "Fargo", "Psycho", "Jaws", "Up", "Babe")
GOOD = ("a rare joy", "warm, sharp and funny", "it lingers for days", "see it twice")
BAD = (
    "a dull slog through mud",
    "loud",
    "nobody seems to care for it, not even its makers",
    "skip it",
)
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m.role }}<turn>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant<turn>{% endif %}"
)
ONLINE: dict[str, dict[str, Any]] = {
    "grpo": {"epochs": 2, "beta": 0.1},
    "ppo": {"epochs": 2, "minibatches": 2},
    "rloo": {"epochs": 2},
    "reinforce_pp": {"epochs": 2},
}
"""Objectives that learn from what they sample, with options that make several updates a step."""

UNCOMPARED = ("MANIFEST", "reference_cache", "run.lock", "cost.json", "summary.json")
"""Files of runs that tell of times, or of names drawn at random."""


def prompt(number: int) -> str:
    """Of the number-th row; each row's own."""
    return f"Write review {number} of the movie {MOVIES[number % len(MOVIES)]}."


def pair(number: int) -> dict[str, Any]:
    """A preference, as turns."""
    chosen, rejected = GOOD[number % 4], BAD[(number // 2) % 4]
    return {
        "prompt": [{"role": "user", "content": prompt(number)}],
        "chosen": [{"role": "assistant", "content": f"{chosen}, {number} stars"}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def demonstration(number: int) -> dict[str, Any]:
    """The better answer of the pair."""
    return {"prompt": pair(number)["prompt"], "completion": pair(number)["chosen"]}


def labelled(number: int) -> dict[str, Any]:
    """One completion with its label: those of odd numbers are good."""
    good = number % 2 == 1
    completion = pair(number)["chosen" if good else "rejected"]
    return {"prompt": pair(number)["prompt"], "completion": completion, "label": good}


def write_rows(file: Path, row: Callable[[int], Mapping[str, Any]], count: int) -> Path:
    """A JSONL file of rows 1 to ``count``."""
    file.write_text("".join(json.dumps(row(n)) + "\n" for n in range(1, count + 1)))
    return file


def save_model(folder: Path) -> Path:
    """Two layers of width 64 over 384 byte-level tokens, as transformers saves a model."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<end>", "<turn>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*GOOD, *BAD, *map(prompt, range(40))], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        pad_token="<end>",
        additional_special_tokens=["<turn>"],
    )
    fast.chat_template = TEMPLATE
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=384,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class World:
    """A model and rows on disk."""

    home: Path
    model: Path
    pairs: Path
    demonstrations: Path
    labels: Path

    @classmethod
    def make(cls, home: Path) -> World:
        """Seven rows to train on and four held out, of each kind."""
        rows = {"pairs": pair, "demonstrations": demonstration, "labels": labelled}
        for name, row in rows.items():
            write_rows(home / f"{name}.jsonl", row, 7)
            write_rows(home / f"{name}-eval.jsonl", lambda n, row=row: row(n + 7), 4)
        return cls(home, save_model(home / "model"), *(home / f"{name}.jsonl" for name in rows))

    def settings(self, **changes: Any) -> dict[str, Any]:
        """A run file: two epochs of seven pairs, in batches of 4 and 3; saved after each."""
        whole: dict[str, Any] = {
            "model": {"name": str(self.model), "quantization": "none", "adapter": {"rank": 4}},
            "data": {"train": str(self.pairs), "eval": f"{self.pairs.with_suffix('')}-eval.jsonl"},
            "objective": {"name": "dpo"},
            "rollout": {"max_new_tokens": 4},
            "train": {
                "epochs": 2,
                "rows": 4,
                "learning_rate": 0.01,
                "micro_tokens": 128,
                "checkpoint_every": 1,
                "eval_samples": 2,
            },
        }
        for section, values in changes.items():
            given = isinstance(values, Mapping)
            whole[section] = {**whole.get(section, {}), **values} if given else values
        return whole

    def demonstrating(self) -> dict[str, Any]:
        """The changes that train on the demonstrations."""
        return self.learning("sft")

    def learning(self, objective: str) -> dict[str, Any]:
        """The changes that train with an objective, on the rows that it learns from."""
        demonstrated = dict.fromkeys(("sft", *ONLINE), self.demonstrations)
        rows = {**demonstrated, "kto": self.labels}.get(objective, self.pairs)
        data = {"train": str(rows), "eval": f"{rows.with_suffix('')}-eval.jsonl"}
        changes = {"data": data, "objective": {"name": objective, **ONLINE.get(objective, {})}}
        if objective not in ONLINE:
            return changes
        return {
            **changes,
            "reward": [{"name": "function", "function": "rewarding:variety"}],
            "rollout": {"group": 2, "max_new_tokens": 5},
            "train": {"epochs": None, "steps": 4},
        }

    def file(self, path: Path, **changes: Any) -> Path:
        """The settings as a run file."""
        path.write_text(yaml.safe_dump(self.settings(**changes)))
        return path


def lines(file: Path) -> list[Any]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A step's metrics without what the clock said."""
    return {name: each for name, each in record.items() if not name.startswith("seconds")}


def whole_state(run: Path) -> dict[str, Any]:
    """Everything that a run has come to, but for its clock and its name.

    Files of tensors are given by their bytes. What holds the times of day, or lengths of lines
    that hold them, is left out: seconds, the positions in the logs, the manifests. So are the
    paths and the random names that a checkpoint notes.
    """
    state: dict[str, Any] = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        name = file.relative_to(run).as_posix()
        if file.suffix in (".safetensors", ".jinja"):
            state[name] = file.read_bytes()
        elif file.name == "README.md":
            named = file.read_text().replace(f"# {run.name}\n", "# RUN\n")
            state[name] = named.replace(str(run), "RUN")
        elif file.name == "metrics.jsonl":
            state[name] = [untimed(record) for record in lines(file)]
        elif file.name in ("evals.jsonl", "samples.jsonl"):
            state[name] = lines(file)
        elif "checkpoints" in name.split("/") and file.name == "run.json":
            saved = json.loads(file.read_text())
            state[name] = {**saved, "logs": None, "config": None, "shards": None}
        elif not file.name.startswith(UNCOMPARED):
            state[name] = file.read_text().replace(str(run), "RUN")
    return state


def differences(one: Path, other: Path) -> list[str]:
    """The names of what differs between two runs, at tolerance zero."""
    states = whole_state(one), whole_state(other)
    names = sorted(states[0].keys() | states[1].keys())
    return [name for name in names if states[0].get(name) != states[1].get(name)]
