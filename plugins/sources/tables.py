"""What ``data.train`` and ``data.eval`` name: embedded data, a file, a folder or a datasets id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from trimtab.core.config import DataConfig
from trimtab.core.errors import UserError, suggestion
from trimtab.core.finish import made_data
from trimtab.plugins.sources import rotten_tomatoes
from trimtab.plugins.sources.files import READERS, read_file
from trimtab.plugins.sources.kinds import Kind, guessed
from trimtab.plugins.sources.rows import Dropped, Row, Rows, Table

_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?(:(?P<split>[\w.\[\]:%+-]+))?")
_HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test", "heldout", "held_out")
"""Names of the part that is held out, the preferred one first."""
_LOOKED_AT = 100


def open_table(name: str, kind: Kind | None = None, *, streaming: bool = False) -> Table:
    """The rows that a name stands for.

    A datasets id is ``OWNER/NAME[@CONFIG][:SPLIT]``. Without a split, its training split is read,
    and its validation or test split is what it holds out. In a folder, files are told apart in
    the same way by their names. ``rotten-tomatoes`` alone is the view that fits ``kind``.
    ``streaming`` reads a datasets id row by row, and keeps no copy of it.
    """
    embedded, _, view = name.partition("/")
    if embedded == rotten_tomatoes.NAME:
        return rotten_tomatoes.table(view or (kind.name if kind else "pairs"))
    path = Path(name).expanduser()
    if path.is_dir():
        return _saved(path) or _folder(made_data(path) or path)
    if path.exists():
        return Table(read_file(path))
    match = _ID.fullmatch(name)
    if match is None or path.suffix.lower() in READERS:
        raise UserError(f"there is no file {name}.{_near(path)}")
    return _hub(name, match["id"], match["config"], match["split"], streaming)


def placed(name: str, rows: Rows) -> Iterator[Row | Dropped]:
    """The rows of one of several tables; ``place`` says which, and where in it."""
    for row in rows:
        number = row.number if isinstance(row, Row) else row.row
        yield replace(row, place=f"{name}, row {row.place or number}")


def names_for(table: str, data: DataConfig) -> DataConfig:
    """The section as it is for one table: what a stage made has our names of columns already."""
    made = made_data(Path(table).expanduser()) is not None
    return data.model_copy(update={"columns": {}}) if made else data


def kind_in(name: str, columns: Mapping[str, str]) -> Kind:
    """The kind of feedback that the first rows look like, under our names of their columns."""
    first = islice(open_table(name).train, _LOOKED_AT)
    theirs = {column for row in first if isinstance(row, Row) for column in row.columns}
    return guessed({*theirs, *columns})


def _near(path: Path) -> str:
    """A file whose name is like this one's, else the data files that are there."""
    folder = path.parent
    if not folder.is_dir():
        return f" There is no folder {folder} either"
    names = sorted(entry.name for entry in folder.iterdir())
    near = suggestion(path.name, names)
    files = [name for name in names if Path(name).suffix.lower() in READERS]
    if near or not files:
        return near
    return f" Data files in {folder.resolve()}: {', '.join(files[:8])}"


def _folder(folder: Path) -> Table:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS)
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(_part(path.stem), []).append(path)
    train = parts.pop("train", [])
    if not train:
        raise UserError(f"{folder} holds no data files to train on ({', '.join(READERS)})")
    held_out = next((parts[name] for name in _HELD_OUT if name in parts), None)
    return Table(_through(train), _through(held_out) if held_out else None)


def _part(stem: str) -> str:
    """``test-00000-of-00001`` is of the part ``test``; what names no part is to train on."""
    word = re.split(r"[-.]", stem.lower())[0]
    return word if word in _HELD_OUT else "train"


def _through(files: list[Path]) -> Iterator[Row | Dropped]:
    """The rows of several files as one table. Row numbers run on; ``place`` says where each is."""
    number = 0
    for path in files:
        for row in read_file(path):
            number += 1
            if isinstance(row, Row):
                yield Row(number, row.columns, f"{path.name}:{row.number}")
            else:
                yield Dropped(number, row.reason, f"{path.name}:{row.row}")


def _saved(folder: Path) -> Table | None:
    """What ``datasets`` saved with ``save_to_disk``."""
    if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return None
    import datasets

    try:
        return _splits(str(folder), datasets.load_from_disk(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be read as a saved dataset: {error}") from error


def _hub(
    name: str, repository: str, config: str | None, split: str | None, streaming: bool = False
) -> Table:
    import datasets

    try:
        loaded = datasets.load_dataset(repository, config, split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"there is no file {name}.{_near(Path(name))} "
            f"And no dataset of that id could be loaded: {error}"
        ) from error
    return _splits(name, loaded)


def _splits(name: str, loaded: Any) -> Table:
    """One split is what to train on; of several, ``train``."""
    if not isinstance(loaded, dict):
        return Table(_rows(loaded))
    if "train" not in loaded:
        raise UserError(f"{name} has no split 'train', but {', '.join(loaded)}: say {name}:SPLIT")
    held_out = next((part for part in _HELD_OUT if part in loaded), None)
    return Table(_rows(loaded["train"]), _rows(loaded[held_out]) if held_out else None)


def _rows(dataset: Any) -> Iterator[Row | Dropped]:
    for number, columns in enumerate(dataset, 1):
        yield Row(number, columns)
