"""The time and size of a save, and the time of a resume, of a real run.

    python -m trimtab.benchmarks.saving

DPO with LoRA of rank 16 on rotten-tomatoes. The limit of a save is measured beside it: writing the
same bytes into one file and waiting for the disk.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trimtab.benchmarks import options, report
from trimtab.benchmarks.compare import Spread
from trimtab.benchmarks.machine import machine
from trimtab.benchmarks.process import ask
from trimtab.benchmarks.saves import Resumed, Saved, ToResume, ToSave
from trimtab.core.embedded import NAME


def run_file(model: str, saves: int) -> dict[str, Any]:
    """Short steps, each followed by a save; one step more than there are saves."""
    return {
        "model": {"name": model, "quantization": "none", "dtype": "float32"},
        "data": {"train": "rotten-tomatoes/pairs", "eval_limit": 1},
        "objective": {"name": "dpo"},
        "train": {"steps": saves + 2, "rows": 1, "checkpoint_every": 1, "eval_samples": 0},
    }


def saved(folder: Path, model: str, saves: int) -> Saved:
    """Train and save in ``folder/run``, which is left as after a kill."""
    file = folder / "run.yaml"
    file.write_text(json.dumps(run_file(model, saves)), encoding="utf-8")
    request = ToSave(file=str(file), run=str(folder / "run"), saves=saves)
    return ask("worker_save", request, Saved)


def resumed(folder: Path, number: int) -> Resumed:
    """Resume a copy of the run."""
    copy = folder / f"copy-{number}"
    shutil.copytree(folder / "run", copy)
    result = ask("worker_resume", ToResume(run=str(copy), began=time.monotonic()), Resumed)
    shutil.rmtree(copy)
    return result


def text(where: Mapping[str, Any], model: str, saves: Saved, resumes: Sequence[Resumed]) -> str:
    """Markdown."""
    ratios = [a / b for a, b in zip(saves.seconds, saves.plain, strict=True)]
    limits = [
        a / (b + c) for a, b, c in zip(saves.seconds, saves.plain, saves.hashing, strict=True)
    ]
    written = [
        ["a save", Spread.of(saves.seconds).show(3)],
        ["the same bytes written and synced", Spread.of(saves.plain).show(3)],
        ["their SHA-256", Spread.of(saves.hashing).show(3)],
        ["save / written", Spread.of(ratios).show()],
        ["save / (written + SHA-256)", Spread.of(limits).show()],
    ]
    passed = [
        *(
            [part, Spread.of([one.parts[part] for one in resumes]).show()]
            for part in resumes[0].parts
        ),
        ["until the first step", Spread.of([one.total for one in resumes]).show()],
        ["the first step", Spread.of([one.step for one in resumes]).show()],
    ]
    return report.page(
        "# Saves and resumes",
        f"{Path(model).name}, float32, LoRA of rank 16 on all linear layers, DPO on "
        "rotten-tomatoes/pairs, AdamW. Values are seconds or ratios: medians [least, greatest].",
        report.surroundings(where),
        f"{len(saves.seconds)} saves of {saves.bytes / report.MEGA:.1f} MB in {saves.files} "
        "files, each hashed for its manifest, with waits for the disk.",
        report.table(["save", "seconds, or a ratio"], written),
        f"{len(resumes)} resumes, each of a process of its own, from its start; files are in the "
        "system's cache.",
        report.table(["resume", "seconds"], passed),
    )


def main(
    model: options.Model = NAME,
    saves: Annotated[int, typer.Option(help="measured")] = 10,
    resumes: Annotated[int, typer.Option(help="measured, a process each")] = 5,
    folder: Annotated[Path | None, typer.Option(help="on the disk to measure")] = None,
    out: options.Out = None,
) -> None:
    """Measure and write."""
    where = machine()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        written = saved(Path(name), model, saves)
        gone_on = [resumed(Path(name), number) for number in range(resumes)]
    record = {
        "machine": where,
        "model": Path(model).name,
        "saves": written.model_dump(),
        "resumes": [one.model_dump() for one in gone_on],
    }
    report.publish(options.results(out, "saving"), record, text(where, model, written, gone_on))


if __name__ == "__main__":
    typer.run(main)
