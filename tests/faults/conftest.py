"""One run for all of these tests, whole and stopped, and copies of it to spoil."""

from __future__ import annotations

import shutil

import pytest
from faults.bombs import Bomb
from faults.commands import OBJECTIVES, file_of, learned, mostly_slow, train


@pytest.fixture(scope="session")
def whole(world, tmp_path_factory):
    """A run of DPO, which has a reference cache too, that was never interrupted."""
    return learned(world, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session", params=mostly_slow(*OBJECTIVES, quick=OBJECTIVES[:6]))
def any_whole(request, world, tmp_path_factory):
    """One of each objective."""
    return learned(world, tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def stopped(whole, tmp_path_factory):
    """The run of DPO, stopped after step 3: checkpoints 2 and 3 are kept."""
    return train(file_of(whole), tmp_path_factory.mktemp("stopped") / "run", "3:SIGTERM")


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the stopped one, with its cache."""
    shutil.copytree(stopped.parent, tmp_path / "copy")
    return tmp_path / "copy/run"


@pytest.fixture
def bomb(tmp_path):
    """Whatever the test does, it must not go off."""
    bomb = Bomb(tmp_path / "marker")
    yield bomb
    assert not bomb.went_off
