"""What a run leaves: the adapter of each role in PEFT's layout, and a model card."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.core.card import model_card
from trimtab.core.files import write_atomically, write_json, write_whole
from trimtab.core.merging import based
from trimtab.core.policy import CRITIC
from trimtab.core.rundir import ROLES
from trimtab.core.watch import of_the_result

DATA = "data"
"""The folder of the data set that a stage made, and in it:"""

TRAIN = "train.jsonl"

if TYPE_CHECKING:
    from trimtab.core.build import Parts
    from trimtab.core.run import Run

ADAPTER = "adapter"
SCORES = "scores.json"
"""Beside a scalar role's adapter: the mean score of the held-out completions."""

MODEL = "model"
"""In place of the adapter, where all weights were trained."""


def made_data(directory: Path) -> Path | None:
    """The folder of the data set that this run made; None where it has made none."""
    folder = directory / DATA
    return folder if (folder / TRAIN).is_file() else None


def has_result(run: Run) -> bool:
    """Is there what the run was to leave: a data set, or what ``write_results`` writes?"""
    if run.file.objective is None:
        return made_data(run.directory.path) is not None
    name = MODEL if run.file.model.adapter is None else ADAPTER
    return (run.directory.path / name).is_dir()


def write_results(run: Run, parts: Parts) -> None:
    """``adapter/`` (or ``model/``), ``roles/<role>/`` and ``README.md``, each whole or absent.

    ``data.json`` is written again: a source that reads as it goes knows more by now.

    ``adapter/`` is the policy; in a run that trains none, the first of its scalar roles.
    """
    home, roles = run.directory.path, parts.model.roles
    first, *others = roles.names
    write_whole(
        home / (MODEL if roles.peft is None else ADAPTER), partial(save_role, run, parts, first)
    )
    for role in others:
        (home / ROLES).mkdir(exist_ok=True)
        write_whole(home / ROLES / role, partial(save_role, run, parts, role))
    write_json(home / "data.json", dict(parts.source.describe()))
    write_atomically(home / "README.md", model_card(run, parts))


def save_role(run: Run, parts: Parts, role: str, folder: Path) -> None:
    """A role's adapter, the tokenizer, and of a scalar role the score that counts as 0.

    Of a critic on the policy's states, its head alone.
    """
    roles = parts.model.roles
    roles.save(role, folder, based(run.file.model, run.directory.path).name)
    if role == CRITIC and roles.trunk is not None:
        return
    parts.tokenizer.save_pretrained(folder)
    if role in roles.scalar:
        write_json(folder / SCORES, {"role": role, **_center(run, role)})


def _center(run: Run, role: str) -> dict[str, Any]:
    """The mean score of the held-out completions, from the evaluation of the result."""
    last = of_the_result(run.directory.path, run.directory.records("evals")) or {}
    mean = last.get(f"score/{role}", last.get("score"))
    return {"center": mean["value"] if mean else 0.0, "rows": mean["n"] if mean else 0}
