"""Evaluation within a run: held-out rows, and completions sampled from the current policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.core.batches import Batch, Demonstrations, Sequences
from trimtab.core.columns import annotate, prepare
from trimtab.core.config import RolloutConfig, RunFile
from trimtab.core.engine import Completion
from trimtab.core.gradient import weighted, weights
from trimtab.core.layout import rows_of
from trimtab.core.lm import LanguageModel
from trimtab.core.measures import Column, Measure, measure, of_batch, rows, total
from trimtab.core.memory import within_memory
from trimtab.core.objective import Loss, Needs, Objective
from trimtab.core.policy import POLICY
from trimtab.core.processes import Processes
from trimtab.core.reference import Reference
from trimtab.core.reward import Group, Score
from trimtab.core.rewards import Rewards, groups_of
from trimtab.core.sampling import as_sequences, sample, uniforms
from trimtab.core.scoring import Scores, filled_by, of_scores
from trimtab.core.source import Prompt

if TYPE_CHECKING:
    from trimtab.core.build import Parts

FEWEST_FOR_KL = 64
"""A KL is an expectation under the current policy; fewer samples are too few to say one."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    measures: Mapping[str, Measure]
    samples: list[dict[str, Any]]


def evaluate_parts(parts: Parts, file: RunFile) -> Evaluation | None:
    """Evaluate a run as it stands; None where no rows are held out."""
    held_out = parts.source.held_out()
    prompts = parts.source.prompts()
    live = parts.reference
    if held_out is None and not prompts:
        return None
    return evaluate(
        parts.model,
        parts.objective,
        parts.loop.reference,
        None if live is not None and live.fixed else live,
        held_out,
        prompts,
        tokenizer=parts.tokenizer,
        stops=parts.stops,
        rollout=file.rollout,
        samples=file.train.eval_samples,
        seed=file.train.seed,
        rewards=parts.rewards,
        processes=parts.loop.processes,
    )


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    objective: Objective,
    reference: Reference | None,
    live: Reference | None,
    held_out: Batch | None,
    prompts: Sequence[Prompt] = (),
    *,
    tokenizer: Any,
    stops: frozenset[int],
    rollout: RolloutConfig,
    samples: int,
    seed: int,
    rewards: Rewards | None = None,
    processes: Processes | None = None,
) -> Evaluation:
    """Measures of the held-out rows, and of ``samples`` answers to held-out prompts.

    Every evaluation of a run draws with the same random streams, so that two of them differ by
    the policy and not by luck. ``reference`` may be a cached one; ``live`` is the one behind it,
    for completions that no cache knows.
    """
    columns: dict[str, Column] = {}
    processes = processes or Processes()
    if held_out is not None and model.roles.scalar:
        columns |= within_memory(model, lambda: _on_scores(model, objective, reference, held_out))
    if held_out is not None and POLICY in model.roles.names:
        columns |= within_memory(model, lambda: _on_rows(model, objective, reference, held_out))
    asked = samples if POLICY in model.roles.names else 0
    prompts = (prompts or _prompts(held_out, tokenizer))[:asked]
    answers: list[dict[str, Any]] = []
    figures: dict[str, Measure] = {}
    if prompts:
        completions = _answered(model, prompts, stops, rollout, seed, processes)
        temperature = rollout.temperature
        columns |= within_memory(model, lambda: _on_samples(model, live, completions, temperature))
        groups = groups_of(tokenizer, prompts, [[completion] for completion in completions])
        scores = [Score(None)] * len(groups)
        if rewards is not None:
            scores = [score for (score,) in rewards.score(groups, processes)]
            rewards.drain_faults()  # they are in the samples, and none of the next step's
            columns |= _of_scores(scores)
            figures = _of_calls(rewards.drain_figures(), len(scores))
        answers = [
            _sample(prompt, group, score)
            for prompt, group, score in zip(prompts, groups, scores, strict=True)
        ]
    measures = {name: measure(column) for name, column in columns.items()}
    known = {name: each for name, each in measures.items() if each is not None}
    return Evaluation(known | figures, answers)


def _answered(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    stops: frozenset[int],
    rollout: RolloutConfig,
    seed: int,
    processes: Processes,
) -> list[Completion]:
    """One completion a prompt; each process samples its share, and all get all."""
    own = processes.share(len(prompts)).tolist()

    def made() -> list[Completion]:
        drawn = uniforms(seed, 0, own, rollout.max_new_tokens)
        asked = [prompts[n].ids for n in own]
        return sample(model, asked, drawn, stops=stops, temperature=rollout.temperature)

    with model.role(POLICY):
        completions = within_memory(model, made) if own else []
    found: dict[int, Completion] = {}
    for part in processes.gather(dict(zip(own, completions, strict=True))):
        found |= part
    return [found[n] for n in range(len(prompts))]


def _sample(prompt: Prompt, group: Group, score: Score) -> dict[str, Any]:
    """A held-out answer for ``samples.jsonl``."""
    (completion,) = group.sampled
    return {
        "row": prompt.row,
        "prompt": group.prompt,
        "completion": group.completions[0],
        "truncated": completion.truncated,
        "reward": score.value,
        "parts": dict(score.parts),
        **({"why": score.why} if score.why else {}),
        **({"said": dict(score.said)} if score.said else {}),
        "held_out": True,
    }


def _of_scores(scores: Sequence[Score]) -> dict[str, Column]:
    """``reward``, and ``reward/<part>``; what could not be scored has no weight there, and is
    counted as ``unscored``."""
    columns = {"reward": _scored([score.value for score in scores])}
    columns["unscored"] = rows(torch.tensor([float(score.value is None) for score in scores]))
    for name in dict.fromkeys(name for score in scores for name in score.parts):
        columns[f"reward/{name}"] = _scored([score.parts.get(name) for score in scores])
    return columns


def _of_calls(figures: Mapping[str, float], answers: int) -> dict[str, Measure]:
    """What rewards say of these calls as a whole, such as their cost: there is no interval."""
    return {name: Measure(value, value, value, answers) for name, value in figures.items()}


def _scored(values: Sequence[float | None]) -> Column:
    there_N = torch.tensor([float(value is not None) for value in values])
    return Column(torch.tensor([value or 0.0 for value in values]), there_N)


def _on_scores(
    model: LanguageModel, objective: Objective, reference: Reference | None, held_out: Batch
) -> dict[str, Column]:
    """The scalar roles' terms, and how their scores agree with the feedback."""
    batch = prepare(objective, annotate(model, reference, held_out, objective.needs))
    members: dict[str, Scores] = {}
    terms: dict[str, list[Column]] = {}
    for role in (name for name in model.roles.names if name in model.roles.scalar):
        members[role] = {name: torch.zeros(len(batch)) for name in batch.sequences}
        parts: dict[str, list[Column]] = {}
        for taken, filled in filled_by(model, batch, role, objective.needs):
            for name, sequences in filled.sequences.items():
                members[role][name][taken] = sequences.score_N.float().cpu()
            for name, column in _of_objective(objective, filled, role):
                parts.setdefault(name, []).append(column)
        for name, columns in parts.items():
            terms.setdefault(name, []).append(_joined(columns))
    return {name: total(columns) for name, columns in terms.items()} | of_scores(batch, members)


def _on_rows(
    model: LanguageModel, objective: Objective, reference: Reference | None, held_out: Batch
) -> dict[str, Column]:
    """The objective's loss and metrics, and the measures of the kind of batch."""
    needs = objective.needs
    if reference is not None:
        needs = replace(needs, reference=True)
    batch = prepare(objective, annotate(model, reference, held_out, needs))
    parts: dict[str, list[Column]] = {}
    for _, filled in filled_by(model, batch, POLICY, needs):
        found = dict(_of_objective(objective, filled, POLICY)) | of_batch(filled)
        for name, column in found.items():
            parts.setdefault(name, []).append(column)
    return {name: _joined(columns) for name, columns in parts.items()}


def _of_objective(objective: Objective, batch: Batch, role: str) -> Iterator[tuple[str, Column]]:
    """A role's terms on rows of this kind. The scaled sum of several terms is not given: they may
    have normalisers of their own."""
    kinds = {"batch": objective.data, **objective.streams}
    for term in objective.terms:
        if term.role == role and kinds[term.rows] is objective.data:
            loss: Loss = getattr(objective, term.method)(batch)
            weight = weights(term, batch).float()
            yield term.method, _column(loss.value, weight)
            for name in loss.metrics:
                yield name, _column(*weighted(term, loss, name, weight))


def _column(value: Tensor, weight: Tensor) -> Column:
    weighted = value * weight
    if weighted.ndim == 2:
        return Column(weighted.sum(-1), weight.sum(-1))
    return Column(weighted, weight)


def _joined(columns: list[Column]) -> Column:
    return replace(
        columns[0],
        value_N=torch.cat([c.value_N.float().cpu() for c in columns]),
        weight_N=torch.cat([c.weight_N.float().cpu() for c in columns]),
    )


def _prompts(batch: Batch | None, tokenizer: Any) -> list[Prompt]:
    """The different prompts of the held-out rows, in their order, and a row that has each."""
    if batch is None:
        return []
    numbers = range(1, len(batch) + 1) if batch.row_N is None else batch.row_N.tolist()
    prompts: dict[tuple[int, ...], int] = {}
    for row, number in zip(rows_of({"leading": batch.leading}), numbers, strict=True):
        prompts.setdefault(row.prompt, number)
    return [
        Prompt(number, ids, tokenizer.decode(ids, skip_special_tokens=True))
        for ids, number in prompts.items()
    ]


def entropy(logps_cV: Tensor, _: Tensor | None) -> Tensor:
    """-sum pi log pi of each token's distribution, in nats."""
    return -(logps_cV.exp() * logps_cV).sum(-1)


def _on_samples(
    model: LanguageModel,
    reference: Reference | None,
    completions: list[Completion],
    temperature: float,
) -> dict[str, Column]:
    """KL to the reference, length, truncation and entropy, on the policy's own completions."""
    asked = Needs(tokenwise={"entropy": entropy})
    drawn = Demonstrations(as_sequences(completions, temperature=temperature))
    parts: dict[str, list[Column]] = {}
    for taken in model.cut(drawn):
        part = drawn[taken].map(lambda tensor: tensor.to(model.device))
        with model.role(POLICY):
            filled = model.forward(part.sequences, asked)["responses"]
        if reference is not None and len(completions) >= FEWEST_FOR_KL:
            logps = reference.logps(model, part.sequences)
            filled = replace(filled, maybe_reference_NT=logps["responses"])
        for name, column in _of_drawn(filled):
            parts.setdefault(name, []).append(column)
    truncated_N = torch.tensor([float(c.truncated) for c in completions])
    return {name: _joined(c) for name, c in parts.items()} | {"truncated": rows(truncated_N)}


def _of_drawn(s: Sequences) -> Iterator[tuple[str, Column]]:
    """kl_sequence = sum_t d_t, k1 in nats; kl_token = exp(-d) + d - 1, k3; d = log pi/pi_ref."""
    yield "length", rows(s.count_N)
    yield "entropy", Column(s.tokenwise_NT["entropy"].sum(-1), s.count_N)
    if s.maybe_reference_NT is not None:
        k3_NT = (-s.logratio_NT).exp() + s.logratio_NT - 1
        yield "kl_sequence", rows(s.logratio_N)
        yield "kl_token", Column(k3_NT.sum(-1), s.count_N)
