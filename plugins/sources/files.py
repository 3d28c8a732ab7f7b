"""Rows of a JSON, JSONL, CSV or Parquet file. A damaged row costs that row, not the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from trimtab.core.errors import UserError
from trimtab.plugins.sources.rows import Dropped, Row, Rows, called, is_unicode

NOT_UTF8 = "not UTF-8"
_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1


def read_file(path: Path) -> Rows:
    """Every row of a data file, in order. The suffix says how it is written."""
    if path.suffix.lower() not in READERS:
        raise UserError(
            f"{path}: rows are read from {', '.join(READERS)}, not from {path.suffix or 'this'}"
        )
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _jsonl(path: Path) -> Iterator[Row | Dropped]:
    """One JSON object a line. Blank lines are no rows, but they count in the line number."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(_BOM).strip()
            if content:
                yield _decoded(number, content)


def _decoded(number: int, content: bytes) -> Row | Dropped:
    try:
        return _row(number, json.loads(content.decode()))
    except UnicodeDecodeError:
        return Dropped(number, NOT_UTF8)
    except RecursionError:
        return Dropped(number, "not JSON: nested too deeply")
    except ValueError as error:
        return Dropped(number, f"not JSON: {str(error).partition(':')[0]}")


def _row(number: int, value: Any) -> Row | Dropped:
    if isinstance(value, dict):
        return Row(number, value)
    return Dropped(number, f"not an object with columns, but {called(value)}")


def _json(path: Path) -> Iterator[Row | Dropped]:
    """One array of objects; what does not start with a bracket is read as JSONL."""
    content = path.read_bytes().removeprefix(_BOM)
    if not content.lstrip().startswith(b"["):
        yield from _jsonl(path)
        return
    try:
        values = json.loads(content.decode(errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON: {error}. Nothing after a fault in an array can be read; "
            "one object a line (.jsonl) would lose one row"
        ) from error
    for number, value in enumerate(values, 1):
        yield _row(number, value)


def _csv(path: Path) -> Iterator[Row | Dropped]:
    """A header, then one record a row; quoted fields may span lines."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = _records(file.readlines())
    header = next(records, None)
    if not isinstance(header, list):
        raise UserError(f"{path}: the first line should name the columns")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: two columns are named {repeated[0]!r}")
    for number, fields in enumerate(records, 1):
        if isinstance(fields, str):
            yield Dropped(number, f"not CSV: {fields}")
        elif not all(map(is_unicode, fields)):
            yield Dropped(number, NOT_UTF8)
        elif len(fields) != len(header):
            yield Dropped(number, f"{len(fields)} fields where the header has {len(header)}")
        else:
            yield Row(number, dict(zip(header, fields, strict=True)))


def _records(lines: list[str]) -> Iterator[list[str] | str]:
    """The fields of each record, or what is wrong with it.

    A quote that is never closed would swallow the rest of the file: that costs the line it is on,
    and reading goes on after it.
    """
    begin = 0
    reader = csv.reader(lines, strict=True)
    while True:
        first = begin + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)
            if begin + reader.line_num > first + 1:
                begin = first + 1
                reader = csv.reader(islice(lines, begin, None), strict=True)
        else:
            if fields:
                yield fields


def _parquet(path: Path) -> Iterator[Row | Dropped]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for columns in _columns(batch):
                number += 1
                yield Row(number, columns) if columns else Dropped(number, NOT_UTF8)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not a readable Parquet file: {error}") from error


def _columns(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The columns of each row of a record batch; None for a row with text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(len(batch)):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


READERS: dict[str, Callable[[Path], Iterator[Row | Dropped]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""How a file with this suffix is read."""
