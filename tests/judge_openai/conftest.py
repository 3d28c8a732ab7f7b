"""A server on loopback, and judges that ask it."""

from __future__ import annotations

import pytest
from judge_server import JudgeServer

from trimtab.core.config import ModelConfig
from trimtab.core.judge import JudgeSetting
from trimtab.plugins.judges.openai import OpenAIJudge
from trimtab.plugins.judges.openai_options import OpenAIConfig


@pytest.fixture
def server():
    with JudgeServer().serving() as server:
        yield server


@pytest.fixture
def quick(monkeypatch):
    """Between attempts it waits as long as it is asked, else not at all."""
    monkeypatch.setattr("random.Random.uniform", lambda self, low, high: 0.0)


@pytest.fixture
def opened(server, tmp_path):
    """Opens judges of one run, or of another in ``home``."""

    def opened(home="run", **options):
        folder = tmp_path / home
        folder.mkdir(exist_ok=True)
        given = {"model": "small", "base_url": server.url, "cache": str(tmp_path / "cache")}
        judge = OpenAIJudge(OpenAIConfig(**(given | options)))
        judge.open(JudgeSetting(ModelConfig(name="any"), None, 0, None, folder))
        return judge

    return opened
