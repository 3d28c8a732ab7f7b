"""From a checked run file to the parts that train: model, rows, objective, reference, loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.core.adapter_files import adapter_folder
from trimtab.core.bases import Bases
from trimtab.core.config import RunFile, Selected
from trimtab.core.engine import Engine, EngineSetting
from trimtab.core.errors import UserError
from trimtab.core.judge import Judge, JudgeSetting
from trimtab.core.lm import LanguageModel
from trimtab.core.loop import Loop
from trimtab.core.merging import based, merge_start, rows_to_read
from trimtab.core.model import compute_dtype, device, load_tokenizer, micro_tokens
from trimtab.core.objective import Objective
from trimtab.core.optimizer import make_optimizer, make_schedule
from trimtab.core.policy import CRITIC, LANGUAGE_ROLES, POLICY
from trimtab.core.precompute import check_fixed
from trimtab.core.processes import Processes
from trimtab.core.reference import Reference
from trimtab.core.registry import Registry
from trimtab.core.reward import RewardSetting
from trimtab.core.rewards import Member, Rewards
from trimtab.core.roles import Roles
from trimtab.core.sampling import stop_ids
from trimtab.core.seeds import mixed
from trimtab.core.source import Setting, Source


@dataclass
class Parts:
    """What a run is made of."""

    model: LanguageModel
    tokenizer: Any
    stops: frozenset[int]
    objective: Objective
    source: Source
    reference: Reference | None
    loop: Loop
    steps: int
    rewards: Rewards | None = None


def build(
    file: RunFile,
    registry: Registry,
    processes: Processes,
    bases: Bases | None = None,
    directory: Path | None = None,
) -> Parts:
    """Everything that the run file names. Rows are read first: bad data should fail at once.

    ``directory`` is the run's: there it keeps its base, where its start is merged into one.
    """
    bases = bases or Bases()
    objective: Objective = made(registry, "objective", file.learns)
    tokenizer = load_tokenizer(file.model.name, trust_remote_code=file.model.trust_remote_code)
    rewards = rewards_of(file, registry)
    judge = judge_of(file, registry)
    engine: Engine = made(registry, "engine", file.rollout.engine)
    setting = Setting(
        batch=objective.data,
        data=file.data,
        tokenizer=tokenizer,
        seed=file.train.seed,
        rollout=file.rollout,
        rows=file.train.rows,
        group=_group(file, objective),
        engine=engine,
        rewards=rewards,
        processes=processes,
        judge=judge,
    )
    source = _source(file, registry, setting, file.source)
    streams = _streams(file, registry, setting, objective)
    file = on_its_base(file, directory, bases, processes, source)
    model = _model(file, objective, rewards, bases)
    stops = stop_ids(model.base, tokenizer)
    reference = _reference(file, registry, objective, model)
    if reference is not None:
        check_fixed(reference, objective, source)
    if judge is not None and (source.judges or (rewards and rewards.judges)):
        judge.open(JudgeSetting(file.model, tokenizer, file.train.seed, model, directory))
    if rewards is not None:
        rewards.open(
            RewardSetting(file.model, model, tokenizer, file.train.seed, judge, file.rollout.group)
        )
    engine.open(EngineSetting(file.model, model, tokenizer, stops))
    steps = _steps(file, source)
    optimizer = make_optimizer(model.trained(), file.train)
    loop = Loop(
        policy=model,
        objective=objective,
        sources={"batch": source, **streams},
        optimizer=optimizer,
        schedule=make_schedule(optimizer, file.train, steps),
        rows=file.train.rows,
        stream_rows={name: s.rows for name, s in file.streams.items() if s.rows},
        reference=reference,
        max_grad_norm=file.train.max_grad_norm,
        max_tries=file.train.max_tries,
        group=source.unit,
        seed=file.train.seed,
        processes=processes,
    )
    return Parts(model, tokenizer, stops, objective, source, reference, loop, steps, rewards)


def on_its_base(
    file: RunFile, home: Path | None, bases: Bases, processes: Processes, source: Source | None
) -> RunFile:
    """The file with the base that it stands on, which is made first where it is a merged one."""
    if file.model.start is not None and file.model.start_as == "merge" and home is not None:
        if processes.main:
            rows = None if source is None else rows_to_read(source)
            merge_start(file.model, home, bases, rows)
        processes.wait()
    return file.model_copy(update={"model": based(file.model, home)})


def judge_of(file: RunFile, registry: Registry) -> Judge | None:
    """The one that the run file names."""
    return None if file.judge is None else made(registry, "judge", file.judge)


def made(registry: Registry, kind: str, selected: Selected) -> Any:
    """The plugin that a section names, with the options beside its name."""
    return registry.make(kind, selected.name, selected.options)


def _group(file: RunFile, objective: Objective) -> int:
    """Completions of each prompt."""
    group = file.rollout.group or objective.group
    if group < objective.least_group:
        raise UserError(
            f"rollout.group is {group}, and {objective.name} compares completions of one prompt "
            f"with each other: set it to {objective.least_group} or more; it is {objective.group} "
            "where the run file does not say"
        )
    return group


def rewards_of(file: RunFile, registry: Registry) -> Rewards | None:
    """All that the run file names, to be opened when there is a model."""
    if not file.reward:
        return None
    members = [Member(made(registry, "reward", selected), selected) for selected in file.reward]
    return Rewards(members, file.rollout)


def _streams(
    file: RunFile, registry: Registry, setting: Setting, objective: Objective
) -> dict[str, Source]:
    """A source for each stream beside the batch: of its own data, or of the run's."""
    if unread := sorted(file.streams.keys() - objective.streams.keys()):
        read = ", ".join(objective.streams) or "none"
        raise UserError(
            f"streams.{unread[0]}: the objective {objective.name!r}, with these options, does "
            f"not read it. It reads: {read}"
        )
    sources: dict[str, Source] = {}
    for name, kind in objective.streams.items():
        section = file.streams.get(name)
        if section is None and kind is not objective.data:
            raise UserError(
                f"the objective {objective.name!r} reads {kind.__name__} of their own for its "
                f"stream {name!r}: give streams.{name}.data.train"
            )
        own = replace(setting, batch=kind, seed=mixed(setting.seed, name))
        if section is not None:
            own = replace(own, data=section.data, rows=section.rows or setting.rows)
        selected = section.source if section is not None else file.source
        sources[name] = _source(file, registry, own, selected)
    return sources


def _source(
    file: RunFile, registry: Registry, setting: Setting, selected: Selected | None
) -> Source:
    """The one that the run file names, else the first that makes this kind of rows."""
    kind = setting.batch
    if selected is not None:
        source: Source = made(registry, "source", selected)
        if not source.serves(kind):
            raise UserError(
                f"the source {source.name!r} cannot make the {kind.__name__} that the objective "
                f"{file.learns.name!r} learns from"
            )
    else:
        names = [n for n in registry.names("source") if registry.find("source", n).serves(kind)]
        if not names:
            raise UserError(
                f"no source makes the {kind.__name__} that the objective {file.learns.name!r} "
                f"learns from. Installed: {', '.join(registry.names('source'))}"
            )
        source = registry.make("source", names[0], {})
    source.open(setting)
    return source


def _model(
    file: RunFile, objective: Objective, rewards: Rewards | None, bases: Bases
) -> LanguageModel:
    place = device()
    trained = list(dict.fromkeys(term.role for term in objective.terms))
    needs = objective.needs
    roles = Roles(
        bases.lend(file.model, place),
        file.model.adapter,
        scalar=[role for role in trained if role not in LANGUAGE_ROLES],
        policy=POLICY in trained or needs.behaviour or bool(needs.before),
        seed=file.train.seed,
        frozen_roles=rewards.adapters(file.model) if rewards else {},
        zero_heads=[CRITIC] if needs.values else [],
        trunk=needs.trunk_values,
    )
    if file.model.start is not None:
        roles.start_from(adapter_folder(file.model.start), file.model.start_as)
    model = LanguageModel(
        roles,
        dtype=compute_dtype(file.model, place),
        micro_tokens=micro_tokens(file.train, place),
        share=bool(file.model.prefix_sharing),
    )
    model.check_head()
    return model


def _reference(
    file: RunFile, registry: Registry, objective: Objective, model: LanguageModel
) -> Reference | None:
    """Unless the objective needs one, only a policy with an adapter to turn off gets one."""
    wanted = objective.needs.reference or bool(objective.needs.before)
    if not wanted and (file.model.adapter is None or POLICY not in model.roles.names):
        return None
    reference: Reference = made(registry, "reference", file.reference)
    if reference.absent:
        if wanted:
            raise UserError(
                f"the objective {objective.name!r}, with these options, needs a reference, and "
                f"reference is {reference.name!r}: name another, such as adapter_off"
            )
        return None
    reference.open(file.model, model)
    return reference


def _steps(file: RunFile, source: Source) -> int:
    if file.train.steps is not None:
        return file.train.steps
    an_epoch = source.steps_per_epoch(file.train.rows)
    if an_epoch is None:
        raise UserError(f"the source {source.name!r} has no epochs: give train.steps")
    return an_epoch * (file.train.epochs or 1)
