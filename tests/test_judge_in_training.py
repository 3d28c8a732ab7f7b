"""The run's own base as a judge while its policy is trained: it is what it was, and disturbs
nothing."""

from __future__ import annotations

from pathlib import Path

from worlds import World, lines

from trimtab import train
from trimtab.core.config import ModelConfig
from trimtab.core.embedded import NAME
from trimtab.core.judge import JudgeSetting, Rating
from trimtab.plugins.judges.local import LocalConfig, LocalJudge

ASKED = {"mode": "score", "reason": True, "reason_tokens": 4, "temperature": 1.0}
ADAPTER = "adapter/adapter_model.safetensors"


def trained(world: World, home: Path, *rewards: dict[str, object], **changes: object) -> Path:
    """Two steps of GRPO, two updates each, with dropout."""
    home.mkdir()
    learning = world.learning("grpo")
    learning["reward"] = [*rewards, *learning["reward"]]
    learning["model"] = {"adapter": {"rank": 4, "dropout": 0.2}}
    learning["data"] |= {"eval": None, "holdout": 0.0}
    learning["train"] |= {"steps": 2}
    return train(world.file(home / "run.yaml", **learning, **changes), run=home / "run")


def test_a_judge_that_only_watches_changes_no_bit_and_reads_the_bare_base(world, tmp_path):
    judge = {"name": "local", **ASKED}
    watched = {"name": "judge", "weight": 0.0}
    run = trained(world, tmp_path / "judged", watched, judge=judge)
    plain = trained(world, tmp_path / "plain")
    assert (run / ADAPTER).read_bytes() == (plain / ADAPTER).read_bytes()
    for one, other in zip(*(lines(each / "metrics.jsonl") for each in (run, plain)), strict=True):
        assert {name: one[name] for name in ("loss", "reward")} == {
            name: other[name] for name in ("loss", "reward")
        }
    bare = LocalJudge(
        LocalConfig(model=str(world.model), quantization="none", micro_tokens=128, **ASKED)
    )
    bare.open(JudgeSetting(ModelConfig(name=NAME), None, 0))
    prompts = {row["prompt"][0]["content"] for row in lines(world.demonstrations)}
    samples = [one for one in lines(run / "samples.jsonl") if not one["held_out"]]
    for step in (1, 2):
        of_step = [one for one in samples if one["step"] == step]
        asked = [
            Rating(next(p for p in prompts if p in one["prompt"]), one["completion"])
            for one in of_step
        ]
        verdicts = bare.score(asked)
        assert [one["parts"]["judge"] for one in of_step] == [each.value for each in verdicts]
        assert [one["said"]["judge"]["said"] for one in of_step] == [
            list(each.said) for each in verdicts
        ]
    assert len(samples) == 8
