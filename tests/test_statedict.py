"""Optimizer states go through tensors and JSON without any change."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trimtab.core.checkpoint import Checkpoint, save_checkpoint
from trimtab.core.errors import RunError
from trimtab.core.statedict import flatten_state, unflatten_state


def through_disk(state: Any, folder: Path) -> Any:
    tensors, document = flatten_state(state)
    path = save_checkpoint(folder, 1, {"state": tensors}, {"state": document}, 1)
    checkpoint = Checkpoint(1, path)
    return unflatten_state(checkpoint.tensors("state"), checkpoint.document("state"))


def assert_same(left: Any, right: Any, path: str = "state") -> None:
    """Equal in types, keys, their order, and bits."""
    assert type(left) is type(right), path
    if isinstance(left, dict):
        keys = [(type(key), key) for key in left]
        assert keys == [(type(key), key) for key in right], path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for at, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}.{at}")
    elif isinstance(left, Tensor):
        assert (left.dtype, left.shape, left.device) == (right.dtype, right.shape, right.device)
        assert torch.equal(left.view(-1).view(torch.uint8), right.view(-1).view(torch.uint8)), path
    elif isinstance(left, float):
        assert (math.isnan(left) and math.isnan(right)) or left.hex() == right.hex(), path
    else:
        assert left == right, path


def train(optimizer: torch.optim.Optimizer, model: torch.nn.Module, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, generator=generator)).square().sum().backward()
        optimizer.step()


Make = Callable[[Any], torch.optim.Optimizer]


def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    return [{"params": [model.weight], "lr": 1e-3}, {"params": [model.bias], "lr": 1e-2}]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda m: torch.optim.AdamW(groups(m), betas=(0.9, 0.95)), id="adamw"),
        pytest.param(lambda m: torch.optim.AdamW(m.parameters(), amsgrad=True), id="amsgrad"),
        pytest.param(lambda m: torch.optim.SGD(groups(m), momentum=0.9), id="momentum"),
        pytest.param(lambda m: torch.optim.SGD(m.parameters(), lr=0.1), id="no state"),
    ],
)
def test_an_optimizer_goes_on_from_its_state_to_the_bit(tmp_path: Path, make: Make) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = make(model)
    train(optimizer, model, 3, seed=1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    restored = through_disk(optimizer.state_dict(), tmp_path)
    assert_same(restored, optimizer.state_dict())
    train(optimizer, model, 3, seed=2)

    again = torch.nn.Linear(3, 2)
    again.load_state_dict(weights)
    resumed = make(again)
    resumed.load_state_dict(restored)
    train(resumed, again, 3, seed=2)
    assert_same(resumed.state_dict(), optimizer.state_dict())
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(again.bias, model.bias)


def test_a_schedule_and_a_generator_come_back(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.step()
    schedule.step()
    generator = random.Random(3)
    state = {"schedule": schedule.state_dict(), "random": generator.getstate()}
    back = through_disk(state, tmp_path)
    assert_same(back, state)
    expected = generator.random()
    generator.setstate(back["random"])
    assert generator.random() == expected


def test_an_8_bit_state_keeps_its_bytes_and_its_shared_maps(tmp_path: Path) -> None:
    codes = torch.linspace(-1, 1, 256)
    state = {
        at: {
            "step": 7,
            "state1": torch.arange(256, dtype=torch.uint8).roll(at),
            "qmap1": codes,
            "absmax1": torch.rand(4, generator=torch.Generator().manual_seed(at)),
        }
        for at in range(3)
    }
    tensors, _ = flatten_state(state)
    assert sum(name.endswith("qmap1") for name in tensors) == 1
    back = through_disk(state, tmp_path)
    assert_same(back, state)
    assert back[0]["qmap1"] is back[2]["qmap1"]


def test_values_that_json_would_change_come_back(tmp_path: Path) -> None:
    state = {
        1: "integer key",
        "1": "text key",
        False: "a bool as a key",
        None: [(), [], {}, ((1,), [2])],
        "dict": {"tensor": {"float": "nan", "tuple": [1]}},
        "floats": [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1.0],
        "integers": [2**80, -1, True, False, 1],
        "text": "\udc80 é \u2028",
        "a.b": {"c": torch.ones(1)},
        "a": {"b.c": torch.zeros(1)},
    }
    assert_same(through_disk(state, tmp_path), state)


@pytest.mark.parametrize("state", [torch.ones(2), 3, None, [], "x", 0.5])
def test_a_state_need_not_be_a_dict(tmp_path: Path, state: Any) -> None:
    assert_same(through_disk(state, tmp_path), state)


def test_the_document_is_strict_json() -> None:
    _, document = flatten_state({0: (math.nan, torch.ones(1))})
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"a": {"b": {1, 2}}}, r"state 'a.b' is of <class 'set'>"),
        ({"a": [0, object()]}, r"state 'a.1' is of <class 'object'>"),
        ({"a": {(1, 2): 0}}, r"state 'a' has the key \(1, 2\) of <class 'tuple'>"),
        ({1.5: 0}, r"state '' has the key 1.5"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_its_place(state: Any, fault: str) -> None:
    with pytest.raises(TypeError, match=fault):
        flatten_state(state)


def test_a_document_with_tensors_of_another_state_is_refused() -> None:
    _, document = flatten_state({"a": torch.ones(1)})
    with pytest.raises(RunError, match="do not fit: {'tensor': 'a'}"):
        unflatten_state({}, document)
