"""Objectives with one fault each, for the checks that must catch them."""

import math

import torch
from torch.nn.functional import logsigmoid
from toy_objectives import ActorCritic, Threshold

from trimtab import Demonstrations, Loss, Needs, Term, Updates
from trimtab.objectives.dpo import DPO
from trimtab.objectives.sft import SFT


class BadName(DPO):
    name = "Bad-Name"


class NoSource(DPO):
    """It cites nothing."""


class Vague(DPO):
    class options(DPO.options):
        power: float = 1.0


class NoSuchMethod(DPO):
    def __init__(self, config):
        super().__init__(config)
        self.terms = (Term("losses"),)


class WrongWeight(DPO):
    terms = (Term("loss", weight="token"),)


class WrongSequences(DPO):
    terms = (Term("loss", weight="tokens:prompt"),)


class IdleStream(DPO):
    streams = {"text": Demonstrations}


class Undeclared(DPO):
    def __init__(self, config):
        super().__init__(config)
        self.needs = Needs()


class ReadsPolicyInPrepare(DPO):
    def prepare(self, batch):
        return {"sum_N": batch.chosen.policy_NT.sum(-1)}


class MistypedBefore(Threshold):
    needs = Needs(reference=True, before=frozenset({"mismatched", "mismached"}))


class UnusedReference(SFT):
    needs = Needs(reference=True)


class UnusedBehaviour(SFT):
    needs = Needs(behaviour=True)


class UnusedBefore(Threshold):
    def prepare(self, batch):
        return {"point_N": torch.zeros(len(batch))}


class UnusedTokenwise(SFT):
    needs = Needs(tokenwise={"entropy": torch.sum})


class UnusedValues(ActorCritic):
    def prepare(self, batch):
        return {"advantage_N": batch.reward_N}


class Mean(DPO):
    def loss(self, batch):
        return Loss(super().loss(batch).value.mean())


class PointInLoss(Threshold):
    def loss(self, batch):
        point = batch.responses.logratio_N.mean().detach()
        sign_N = batch.desirable_N.double() * 2 - 1
        return Loss(1 - torch.sigmoid(sign_N * (batch.responses.logratio_N - point)))


class RunningMean(DPO):
    seen = 0

    def loss(self, batch):
        self.seen += len(batch)
        return Loss(super().loss(batch).value / self.seen)


class NeighbourBaseline(ActorCritic):
    def prepare(self, batch):
        return {"advantage_N": batch.reward_N - batch.reward_N.roll(1)}


class NoMask(DPO):
    def loss(self, batch):
        chosen_N = (batch.chosen.policy_NT - batch.chosen.reference_NT).sum(-1)
        return Loss(-logsigmoid(0.1 * (chosen_N - batch.rejected.logratio_N)))


class MeanOverWidth(DPO):
    def loss(self, batch):
        return Loss(
            -logsigmoid(batch.chosen.logratio_NT.mean(-1) - batch.rejected.logratio_NT.mean(-1))
        )


class PromptWidth(DPO):
    def loss(self, batch):
        return Loss(super().loss(batch).value / batch.chosen.prompt_NP.shape[-1])


class UnguardedMean(DPO):
    def loss(self, batch):
        chosen_N = batch.chosen.logratio_N / batch.chosen.count_N
        return Loss(-logsigmoid(chosen_N - batch.rejected.logratio_N))


class UnguardedDeviation(ActorCritic):
    def prepare(self, batch):
        deviation_N = batch.reward_N - batch.reward_N.mean()
        variance = deviation_N.square().sum() / (len(batch) - 1)
        return {"advantage_N": deviation_N / (variance + 1e-8).sqrt()}


class Cancels(DPO):
    def loss(self, batch):
        margin_N = 1000.0 + batch.chosen.logratio_N - batch.rejected.logratio_N
        return Loss((margin_N - 1001.0).square())


class Tiny(DPO):
    def loss(self, batch):
        return Loss(super().loss(batch).value * 1e-30)


class DeadTerm(DPO):
    terms = (Term("loss"), Term("imitate", weight="tokens"))

    def imitate(self, batch):
        return Loss(-1e-30 * batch.chosen.policy_NT)


class ConstantMetric(DPO):
    def loss(self, batch):
        value_N = super().loss(batch).value
        return Loss(value_N, {"accuracy": torch.ones_like(value_N)})


class RandomMetric(DPO):
    def loss(self, batch):
        value_N = super().loss(batch).value
        return Loss(value_N, {"accuracy": torch.rand_like(value_N)})


class MetricOfTheBatch(DPO):
    def loss(self, batch):
        value_N = super().loss(batch).value
        return Loss(value_N, {"accuracy": value_N.mean()})


class WritesInLoss(DPO):
    def loss(self, batch):
        loss = super().loss(batch)
        batch.chosen.reference_NT.add_(1)
        return loss


class WritesInPrepare(ActorCritic):
    def prepare(self, batch):
        batch.reward_N.sub_(0.5)
        return super().prepare(batch)


class RandomPrepare(ActorCritic):
    def prepare(self, batch):
        return {"advantage_N": batch.reward_N + torch.rand(len(batch))}


class KeepsNumbers(ActorCritic):
    def keep(self, batch):
        return batch.reward_N.nonzero()[:, 0]


class WritesToState(DPO):
    def __init__(self, config):
        super().__init__(config)
        self.state = {"steps": 0}

    def advance(self, state, metrics):
        state["steps"] += 1
        return state


class TensorState(DPO):
    def advance(self, state, metrics):
        return {1: metrics["loss"]}


class StopsWithATensor(DPO):
    def stop(self, metrics):
        return torch.tensor(True)


class HoldsALambda(DPO):
    def __init__(self, config):
        super().__init__(config)
        self.scale = lambda value: value


class ForgetsWhenPickled(DPO):
    def __getstate__(self):
        return {**vars(self), "config": DPO.options(beta=0.5)}


class IgnoresCertainty(DPO):
    def loss(self, batch):
        loss = super().loss(batch)
        return loss if batch.preference_N is None else Loss(0.5 * loss.value)


class InfiniteOnSoftLabels(DPO):
    def loss(self, batch):
        value_N = super().loss(batch).value
        given_N = batch.preference_N
        return Loss(value_N if given_N is None else value_N / (1 - given_N.ceil()))


class Flipped(DPO):
    """Faulty in nothing but its direction: arXiv:2305.18290."""

    def loss(self, batch):
        return Loss(-super().loss(batch).value)


class FlippedLabels(Threshold):
    def loss(self, batch):
        return Loss(-super().loss(batch).value)


class FlippedReward(ActorCritic):
    def actor(self, batch):
        return Loss(-super().actor(batch).value)


class Unlearns(SFT):
    def loss(self, batch):
        return Loss(-super().loss(batch).value)


class Leaks(Threshold):
    def loss(self, batch):
        return Loss(super().loss(batch).value + batch.mismatched.logratio_N)


class ReadsColumnsInStream(ActorCritic):
    def imitation(self, batch):
        return Loss(-batch.responses.policy_NT * batch.columns["advantage_N"][:, None])


class StashesForTheCritic(ActorCritic):
    def actor(self, batch):
        self.kept_N = batch.responses.policy_NT.exp().sum(-1)
        return super().actor(batch)

    def critic(self, batch):
        loss = super().critic(batch)
        return Loss(loss.value + self.kept_N)


class ScalesByAnotherTerm(ActorCritic):
    """The critic's gradient depends on whether the actor's term came before."""

    seen = False

    def actor(self, batch):
        self.seen = True
        return super().actor(batch)

    def critic(self, batch):
        return Loss(super().critic(batch).value * (2 if self.seen else 1))


class NoUpdate(ActorCritic):
    updates = Updates(epochs=0)


class ScalarColumn(ActorCritic):
    def prepare(self, batch):
        return super().prepare(batch) | {"mean": batch.reward_N.mean()}


class DistanceAtZero(ActorCritic):
    def actor(self, batch):
        responses = batch.responses
        moved_NT = (responses.policy_NT - responses.behaviour_NT).square().sqrt()
        return Loss(super().actor(batch).value + moved_NT)


class CountsInSelf(ActorCritic):
    batches = 0

    def advance(self, state, metrics):
        self.batches += 1
        return state

    def active(self, term):
        return term.method == "critic" or self.batches >= 2


class AveragesInSelf(ActorCritic):
    mean = 0.0

    def advance(self, state, metrics):
        self.mean = 0.9 * self.mean + 0.1 * metrics["reward"]
        return {"baseline": self.mean}


class NeverActive(ActorCritic):
    def active(self, term):
        return False


class WaitsForMissingMetrics(ActorCritic):
    def __init__(self, config):
        super().__init__(config)
        self.state = {"baseline": 0.0, "batches": 0}

    def active(self, term):
        return term.method == "critic" or self.state["batches"] >= 2

    def advance(self, state, metrics):
        return {"baseline": metrics.get("reward", math.nan), "batches": state["batches"] + 1}


class NeedsEveryMetric(WaitsForMissingMetrics):
    def advance(self, state, metrics):
        return {"baseline": metrics["reward"], "batches": state["batches"] + 1}


class EqualGroups(ActorCritic):
    def prepare(self, batch):
        return {"advantage_N": batch.reward_N - batch.reward_N.view(-1, 2).mean(1).repeat(2)}


class KeepsPartsOfGroups(ActorCritic):
    def keep(self, batch):
        return batch.reward_N > 0.5


class HeatsAgain(ActorCritic):
    def actor(self, batch):
        return Loss(super().actor(batch).value / batch.responses.temperature)


class TrustsTheSampler(ActorCritic):
    def actor(self, batch):
        responses = batch.responses
        weight_NT = (responses.behaviour_NT - responses.sampled_NT).exp()
        return Loss(super().actor(batch).value * weight_NT)
