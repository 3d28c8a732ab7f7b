"""Nested state, such as an optimizer's, as tensors and JSON, and back without any change.

JSON would turn integer keys into strings and tuples into lists, and has no NaN. So a dict is
written ``{"dict": [[key, value], ...]}``, a tuple ``{"tuple": [...]}``, a float that is not finite
``{"float": "nan"}``, and a tensor ``{"tensor": name}``.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from trimtab.core.errors import RunError


def flatten_state(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples into named tensors and a JSON document.

    ``unflatten_state`` gives it back: the same bits, types, keys and order. A tensor that occurs
    twice is kept once. A subclass of dict comes back as a dict.
    Raises ``TypeError`` that says where a value is of a type that JSON and tensors cannot hold.

    >>> flatten_state({0: (0.9, None)})
    ({}, {'dict': [[0, {'tuple': [0.9, None]}]]})
    """
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}

    def encode(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in names:
                names[id(value)] = _unused(path or "tensor", tensors)
                tensors[names[id(value)]] = value.detach()
            return {"tensor": names[id(value)]}
        if type(value) is float and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict):
            for key in value:
                if key is not None and type(key) not in (bool, int, str):
                    raise TypeError(f"state {path!r} has the key {key!r} of {type(key)}")
            return {"dict": [[key, encode(each, _join(path, key))] for key, each in value.items()]}
        if type(value) in (list, tuple):
            items = [encode(each, _join(path, at)) for at, each in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        raise TypeError(f"state {path!r} is of {type(value)}, which a checkpoint cannot hold")

    return tensors, encode(state, "")


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _unused(name: str, used: dict[str, Tensor]) -> str:
    while name in used:
        name += "'"
    return name


def unflatten_state(tensors: dict[str, Tensor], document: Any) -> Any:
    """The state that ``flatten_state`` split into these tensors and this document.

    >>> unflatten_state({}, {'dict': [[0, {'tuple': [0.9, None]}]]})
    {0: (0.9, None)}
    """

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(each) for each in value]
        if not isinstance(value, dict):
            return value
        match value:
            case {"dict": pairs}:
                return {key: decode(each) for key, each in pairs}
            case {"tuple": items}:
                return tuple(decode(each) for each in items)
            case {"float": text}:
                return float(text)
            case {"tensor": name} if name in tensors:
                return tensors[name]
        raise RunError(f"a state's document and its tensors do not fit: {value!r:.200}")

    return decode(document)
