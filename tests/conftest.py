"""What all tests share: no network, one thread, a cache of their own, and a small world."""

from __future__ import annotations

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import pytest
import torch
from worlds import World

from trimtab.core.caches import VARIABLE, cache_dir

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Reference log-probs of their own; converted models are the user's, for they take long."""
    models = cache_dir() / "models"
    models.mkdir(parents=True, exist_ok=True)
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(cache))
        yield cache


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small model, seven pairs and seven demonstrations to train on, four of each held out."""
    return World.make(tmp_path_factory.mktemp("world"))
