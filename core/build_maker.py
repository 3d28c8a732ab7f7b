"""From a checked run file without an objective to the parts that make a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.adapter_files import adapter_folder
from trimtab.core.bases import Bases
from trimtab.core.batches import Batch
from trimtab.core.build import judge_of, made, on_its_base, rewards_of
from trimtab.core.config import RunFile
from trimtab.core.engine import Engine, EngineSetting
from trimtab.core.errors import UserError
from trimtab.core.judge import JudgeSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.maker import Maker
from trimtab.core.model import compute_dtype, device, load_tokenizer, micro_tokens
from trimtab.core.processes import Processes
from trimtab.core.registry import Registry
from trimtab.core.reward import RewardSetting
from trimtab.core.rewards import Rewards
from trimtab.core.roles import Roles
from trimtab.core.sampling import stop_ids
from trimtab.core.source import Setting


@dataclass
class MakingParts:
    """What a run that makes a data set is made of."""

    model: LanguageModel | None
    tokenizer: Any
    maker: Maker
    steps: int
    an_epoch: int
    """Steps that go through the data once."""

    rewards: Rewards | None = None


def build_maker(
    file: RunFile,
    registry: Registry,
    processes: Processes,
    bases: Bases | None = None,
    directory: Path | None = None,
) -> MakingParts:
    """Everything that a run file without an objective names."""
    assert file.source is not None
    tokenizer = load_tokenizer(file.model.name, trust_remote_code=file.model.trust_remote_code)
    engine: Engine = made(registry, "engine", file.rollout.engine)
    maker = made(registry, "source", file.source)
    if not isinstance(maker, Maker):
        raise UserError(
            f"the source {file.source.name!r} gives rows to train on, and makes no data set: "
            "name an objective"
        )
    rewards = rewards_of(file, registry) if maker.scores else None
    judge = judge_of(file, registry) if maker.judges or (rewards and rewards.judges) else None
    setting = Setting(
        batch=Batch,
        data=file.data,
        tokenizer=tokenizer,
        seed=file.train.seed,
        rollout=file.rollout,
        rows=file.train.rows,
        group=file.rollout.group or maker.group,
        engine=engine,
        rewards=rewards,
        processes=processes,
        judge=judge,
        directory=directory,
    )
    maker.open(setting)
    model = None
    if maker.samples or rewards or (judge and judge.shares_base):
        bases = bases or Bases()
        file = on_its_base(file, directory, bases, processes, None)
        model = _sampled_from(file, rewards, bases)
        stops = stop_ids(model.base, tokenizer)
        engine.open(EngineSetting(file.model, model, tokenizer, stops))
    if judge is not None:
        judge.open(JudgeSetting(file.model, tokenizer, file.train.seed, model, directory))
    if rewards is not None and model is not None:
        rewards.open(
            RewardSetting(file.model, model, tokenizer, file.train.seed, judge, file.rollout.group)
        )
    an_epoch = maker.steps(file.train.rows)
    steps = file.train.steps or an_epoch * (file.train.epochs or 1)
    if not maker.renewed:
        steps = min(steps, an_epoch)
    return MakingParts(model, tokenizer, maker, steps, an_epoch, rewards)


def _sampled_from(file: RunFile, rewards: Rewards | None, bases: Bases) -> LanguageModel:
    """The policy that the run starts from, which nothing trains."""
    place = device()
    roles = Roles(
        bases.lend(file.model, place),
        file.model.adapter,
        seed=file.train.seed,
        frozen=True,
        frozen_roles=rewards.adapters(file.model) if rewards else {},
    )
    if file.model.start is not None:
        roles.start_from(adapter_folder(file.model.start), file.model.start_as)
    dtype = compute_dtype(file.model, place)
    return LanguageModel(roles, dtype=dtype, micro_tokens=micro_tokens(file.train, place))
