"""Human harm scores as ratings with their raters, and as preference pairs.

    pip install --no-deps pyrit==1.1.0
    python examples/data_harm_pairs.py OUT_FOLDER
    trimtab data agreement OUT_FOLDER/ratings.jsonl

The CSV files under ``pyrit/datasets/scorer_evals/harm`` (MIT licence) hold requests, answers, and
by one to three people how harmful each answer is, from 0 (not at all) to 1. **The texts are
harmful.** This script prints none of them.

``ratings.jsonl``: one row a score. ``rating`` is 1 - score: higher is better, that is *less
harmful*. ``annotator`` is the file and the column, as ``violence_multi_score:2``; who that was is
not said, and whether the raters of two files are the same people is not known.

``pairs/train.jsonl`` and ``pairs/test.jsonl``, which ``data.train: OUT_FOLDER/pairs`` reads: two
answers to one request from one file, so that the same people scored both. ``chosen`` is the one
that more of them found less harmful, and ``preference`` is their share, where a tie is half a
vote; there is no pair where votes are even. At most four pairs a request, the first by a hash of
the texts. A fifth of the requests, by a hash too, are in ``test.jsonl`` with all their pairs. No
pair says who voted.

``mini_hate_speech.csv`` repeats rows of ``hate_speech_multi_score.csv`` and is not read.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

DISTRIBUTION, VERSION = "pyrit", "1.1.0"
COMMAND = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
FOLDER = "pyrit/datasets/scorer_evals/harm"
SHA256 = {
    "exploits": "f736d8f3d0c2a034cc38f92d587eb66d71740cd1a712bc03eda6d32148d7e6af",
    "hate_speech": "6548e2e377d054cbca9ff6751022e20dc06b59957830b7e74e54b144371fcb3b",
    "hate_speech_multi_score": "6597b56a388b68fe8c072a0d6953f211ce62e23ed46373f36207a3261de0c406",
    "info_integrity": "d13de133267b803b7d6a483bca53039411cfe6d0ffa51df6ae441352d3a9be66",
    "privacy": "8b5f63bfc33220e00e5ed835932e1a43809664ceda4bb8f28d6bbe056ca91093",
    "representational": "f4299fd91911ee1dfc3b395d89db89004c8ad43ab5a19d720af03dbc18acc142",
    "self_harm": "2abdac174039c12e36ba1120c37d1175c34645d6dac9af657d56f82a5280f459",
    "sexual": "f20bd23321442ca3be3e65081db930eaeab7befe185eea0fb9e4313be7061505",
    "violence": "f47d6c984ee7cf6481972ef2035483f91717870d2728736421c522220c66dfea",
    "violence_multi_score": "20f311f0de3a97173f7555a139c55011339778f58924f484cbe3da205b55c0d0",
}
PAIRS_A_PROMPT = 4
TEST = 0.2


class Scored(NamedTuple):
    """One answer to a request, and how harmful each rater of its file found it."""

    file: str
    request: str
    answer: str
    scores: tuple[float, ...]


def main() -> None:
    """Check the files, and write ratings and pairs."""
    parser = argparse.ArgumentParser(description="Write human harm scores as ratings and pairs.")
    parser.add_argument("out", type=Path, help="the folder to write to")
    out = parser.parse_args().out
    (out / "pairs").mkdir(parents=True, exist_ok=True)
    answers = [one for name in SHA256 for one in scored(name, _content(name))]
    made = list(pairs(answers))
    for name, rows in (
        ("ratings", list(ratings(answers))),
        ("pairs/train", [row for request, row in made if not is_test(request)]),
        ("pairs/test", [row for request, row in made if is_test(request)]),
    ):
        path = out / f"{name}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        print(f"{path}: {len(rows)} rows")
    print(f"{len(made)} pairs of {len({request for request, _ in made})} requests")


def scored(name: str, content: bytes) -> Iterator[Scored]:
    """The answers in a file. Its first line is a comment, its second names the columns."""
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    if not text.readline().startswith("#"):
        raise ValueError(f"{name}: the first line is no comment")
    for row in csv.DictReader(text):
        scores = tuple(float(row[key]) for key in row if key.startswith("human_score"))
        if not scores or not all(0 <= score <= 1 for score in scores):
            raise ValueError(f"{name}: a score is not in [0, 1]")
        yield Scored(name, row["objective"], row["assistant_response"], scores)


def ratings(answers: Iterable[Scored]) -> Iterator[dict[str, Any]]:
    """One row a score, higher for less harmful answers."""
    for one in answers:
        for number, score in enumerate(one.scores, 1):
            yield {
                "prompt": _turn("user", one.request),
                "completion": _turn("assistant", one.answer),
                "rating": 1 - score,
                "annotator": f"{one.file}:{number}",
            }


def pairs(answers: Iterable[Scored]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pair after its request."""
    asked: dict[str, dict[tuple[str, str], Scored]] = {}
    for one in answers:
        asked.setdefault(one.request, {}).setdefault((one.file, one.answer), one)
    for request, given in asked.items():
        decided = [
            pair
            for one, other in combinations(given.values(), 2)
            if one.file == other.file and one.answer != other.answer
            for pair in _decided(one, other)
        ]
        decided.sort(key=lambda pair: _hash(pair[0].answer + "\n" + pair[1].answer))
        for chosen, rejected, share in decided[:PAIRS_A_PROMPT]:
            yield request, _pair(chosen, rejected, share)


def is_test(request: str) -> bool:
    """Does this request belong to the part that nothing trains on?"""
    return int(_hash(request)[:8], 16) / 2**32 < TEST


def _decided(one: Scored, other: Scored) -> Iterator[tuple[Scored, Scored, float]]:
    """The better answer, the worse one and its share of the votes; nothing where they are even."""
    votes = [(a < b) + (a == b) / 2 for a, b in zip(one.scores, other.scores, strict=True)]
    share = sum(votes) / len(votes)
    if share > 0.5:
        yield one, other, share
    elif share < 0.5:
        yield other, one, 1 - share


def _pair(chosen: Scored, rejected: Scored, share: float) -> dict[str, Any]:
    return {
        "prompt": _turn("user", chosen.request),
        "chosen": _turn("assistant", chosen.answer),
        "rejected": _turn("assistant", rejected.answer),
        "preference": share,
        "votes": len(chosen.scores),
    }


def _turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _content(name: str) -> bytes:
    try:
        package = metadata.distribution(DISTRIBUTION)
        path = Path(str(package.locate_file(f"{FOLDER}/{name}.csv")))
        content = path.read_bytes()
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise SystemExit(f"the files are in a package that is not here: {COMMAND}") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise SystemExit(f"{name}.csv is not the file of {DISTRIBUTION} {VERSION}: {COMMAND}")
    return content


if __name__ == "__main__":
    main()
