"""Movie-review sentences with the rating of every rater, as rows that Trimtab reads.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python examples/data_movie_ratings.py vaderSentiment-3.3.2.tar.gz ratings.jsonl
    trimtab data agreement ratings.jsonl

The first argument is the archive of sources or a folder into which it was untarred. The movie part
of Hutto and Gilbert, "VADER" (ICWSM 2014; MIT licence), has 10,605 sentences and 198,810 ratings
from -4 (most negative) to 4. The file does not say who gave a rating, it only lists 15 to 29
numbers a sentence: ``annotator`` is the *position* in that list, so one number may stand for
different people in different sentences. ``snippet`` is the file's own number of the sentence.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMAND = "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2"
INNER = "hutto_ICWSM_2014.tar.gz"
TEXTS = "movieReviewSnippets_GroundTruth.txt"
RATINGS = "movieReviewSnippets_anonDataRatings.txt"
SHA256 = {
    TEXTS: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    RATINGS: "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4",
}
PROMPT = "Rate this sentence from a movie review, from -4 (most negative) to 4 (most positive)."


def main() -> None:
    """Check the files, and write one row a rating."""
    parser = argparse.ArgumentParser(description="Write movie ratings as JSONL.")
    parser.add_argument("source", type=Path, help=f"from: {COMMAND}")
    parser.add_argument("out", type=Path, help="the JSONL file to write")
    given = parser.parse_args()
    files = found(given.source)
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != SHA256[name]:
            raise SystemExit(f"{name} is not the file of version 3.3.2 (SHA-256): {COMMAND}")
    made = list(rows(files[TEXTS], files[RATINGS]))
    with given.out.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    sentences = len({row["snippet"] for row in made})
    print(f"{given.out}: {len(made)} ratings of {sentences} sentences")
    print("annotator is a position in the list of ratings: the file does not say who gave them")


def rows(texts: bytes, ratings: bytes) -> Iterator[dict[str, Any]]:
    """One row a rating, in the order of the files."""
    given = {line[0]: json.loads(line[3]) for line in _lines(ratings, 4)}
    for snippet, _, text in _lines(texts, 3):
        for position, rating in enumerate(given.pop(snippet), 1):
            if not isinstance(rating, int) or not -4 <= rating <= 4:
                raise ValueError(f"{RATINGS}: {snippet}: {rating} is not a rating")
            yield {
                "prompt": PROMPT,
                "completion": text,
                "rating": rating,
                "annotator": position,
                "snippet": snippet,
            }
    if given:
        raise ValueError(f"{RATINGS}: {len(given)} lists of ratings have no sentence")


def found(source: Path) -> dict[str, bytes]:
    """The two files by name: in a folder, in an archive in it, or in an archive in an archive."""
    if source.is_dir():
        plain = {path.name: path.read_bytes() for path in source.rglob("*.txt")}
        if SHA256.keys() <= plain.keys():
            return {name: plain[name] for name in SHA256}
        inner = next(source.rglob(INNER), None)
        content = inner.read_bytes() if inner else b""
    elif source.is_file():
        content = _members(source.read_bytes()).get(INNER, b"")
    else:
        raise SystemExit(f"there is no {source}: {COMMAND}")
    files = _members(content) if content else {}
    if not SHA256.keys() <= files.keys():
        raise SystemExit(f"{source} does not hold {INNER} with the movie ratings: {COMMAND}")
    return {name: files[name] for name in SHA256}


def _members(archive: bytes) -> dict[str, bytes]:
    """The files of an archive by their names, in memory."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        read = ((Path(m.name).name, opened.extractfile(m)) for m in opened if m.isfile())
        return {name: file.read() for name, file in read if file}


def _lines(content: bytes, fields: int) -> Iterator[list[str]]:
    for number, line in enumerate(content.decode("utf-8-sig").splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != fields:
            raise ValueError(f"line {number}: {len(parts)} fields, not {fields}")
        yield parts


if __name__ == "__main__":
    main()
