"""What a step collects, keeps and does, on a toy policy."""

from __future__ import annotations

import pytest
import torch
from toy import REFERENCE, Bigram, BigramReference, ragged
from toy_objectives import ActorCritic
from worlds import untimed

from trimtab import Config, Demonstrations, Loss, Objective, Rollouts, Source, Term
from trimtab.core.inflight import InFlight
from trimtab.core.loop import Loop, NotFinite, minibatch
from trimtab.core.objective import Updates

GROUP = 4


class Counting(Source[Config]):
    """Groups of four whose rewards count the rows up; each row is numbered as the data's is."""

    def __init__(self, unscored=()):
        super().__init__(Config())
        self.unscored = set(unscored)
        self.asked = []
        self.given = 0

    @classmethod
    def serves(cls, batch):
        return True

    def open(self, setting):
        pass

    def collect(self, policy, rows):
        self.asked.append(rows)
        numbers = torch.arange(self.given, self.given + rows)
        self.given += rows
        numbers = numbers[torch.tensor([n not in self.unscored for n in numbers.tolist()])]
        sequences = ragged(rows, seed=self.given)[torch.arange(len(numbers))]
        return Rollouts(sequences, numbers.double(), numbers // GROUP, row_N=1 + numbers // GROUP)

    def held_out(self):
        return None

    def metrics(self):
        return {"reward": 1.0}

    def state(self):
        return {}

    def restore(self, state):
        pass


class Text(Counting):
    """Completions to imitate."""

    def collect(self, policy, rows):
        return Demonstrations(ragged(rows, seed=5), row_N=torch.arange(rows) + 1)


class Plain(Objective[Rollouts, Config]):
    """Its loss is minus the log-probability."""

    def loss(self, batch):
        return Loss(-batch.responses.policy_N)


class Picky(Plain):
    """It keeps the groups whose number is odd."""

    def keep(self, batch):
        return batch.group_N % 2 == 1


def loop(objective, source, rows=16, **settings):
    policy = Bigram()
    parameters = [p for group in policy.trained().values() for p in group]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    sources = {"batch": source, "text": Text()}
    return Loop(policy, objective, sources, optimizer, schedule, rows, **settings)


def test_what_is_not_kept_is_collected_again_in_whole_groups():
    source = Counting()
    made = loop(Picky(Config()), source, group=GROUP)
    flight = made.begin(0)
    # groups 1 and 3, then 5 and no more of two, then 7
    assert source.asked == [16, 8, 4, 4]
    assert flight.streams["batch"].group_N.tolist() == [1] * 4 + [3] * 4 + [5] * 4 + [7] * 4
    assert untimed(flight.collected) == {"collected": 32, "tries": 4, "reward": 1}


def test_collecting_again_has_a_limit():
    class Never(Plain):
        def keep(self, batch):
            return torch.zeros(len(batch), dtype=torch.bool)

    source = Counting()
    made = loop(Never(Config()), source, group=GROUP, max_tries=3)
    before = made.policy.policy_VV.clone()
    metrics = made.step(0)
    assert source.asked == [16, 16, 16]
    assert metrics["rows"] == 0 and metrics["collected"] == 48 and metrics["tries"] == 3
    assert "loss" not in metrics and torch.equal(made.policy.policy_VV, before)


def test_never_more_rows_than_asked_for_where_some_cannot_be_scored():
    """Group 1 has lost a row: for the nine that are missing, two whole groups are collected."""
    source = Counting(unscored=[5])
    flight = loop(Picky(Config()), source, group=GROUP).begin(0)
    assert source.asked == [16, 8, 4, 4]
    assert len(flight.streams["batch"]) == 15


def test_unscored_rows_are_not_collected_again_by_an_objective_that_keeps_all():
    source = Counting(unscored=range(3))
    flight = loop(Plain(Config()), source, group=GROUP).begin(0)
    assert source.asked == [16] and len(flight.streams["batch"]) == 13
    assert untimed(flight.collected) == {"reward": 1}


def test_an_empty_batch_updates_nothing():
    source = Counting(unscored=range(16))
    made = loop(Plain(Config()), source, group=GROUP)
    before = made.policy.policy_VV.clone()
    assert made.step(0)["rows"] == 0
    assert source.asked == [16] and torch.equal(made.policy.policy_VV, before)


@pytest.mark.parametrize("rows, minibatches", [(12, 3), (13, 3), (2, 3)])
def test_each_row_is_in_one_minibatch_of_an_epoch(rows, minibatches):
    streams = {"batch": Counting().collect(None, rows)}
    updates = Updates(epochs=2, minibatches=minibatches)
    parts = min(rows, minibatches)
    seen = [
        minibatch(streams, updates, n, seed=7)["batch"].reward_N.tolist() for n in range(2 * parts)
    ]
    epochs = [sum(seen[:parts], []), sum(seen[parts:], [])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(rows))] * 2
    assert epochs[0] != epochs[1] or rows == 2
    assert {len(part) for part in seen} <= {rows // parts, -(-rows // parts)}


def test_an_objective_may_leave_out_updates_and_the_log_says_so():
    class Two(Plain):
        updates = Updates(epochs=5)

        def stop(self, metrics):
            self.seen = getattr(self, "seen", 0) + 1
            return self.seen == 2

    assert loop(Two(Config()), Counting()).step(0)["updates"] == 2


def test_a_flight_comes_back_from_tensors_and_json():
    class Several(ActorCritic):
        updates = Updates(epochs=2, minibatches=2)

    made = loop(Several(Config()), Counting(), reference=REFERENCE)
    flight = made.begin(0)
    made.update(flight)
    kinds = {"batch": Rollouts, "text": Demonstrations}
    again = InFlight.load(*flight.save(), kinds)
    twin = loop(Several(Config()), Counting(), reference=REFERENCE)
    twin.policy, twin.optimizer = made.policy, made.optimizer
    assert again.history == flight.history and again.collected == flight.collected
    for name, batch in flight.streams.items():
        assert type(again.streams[name]) is type(batch)
        assert again.save()[1] == flight.save()[1]
        for one, other in zip(again.save()[0].items(), flight.save()[0].items(), strict=True):
            assert one[0] == other[0] and torch.equal(one[1], other[1])


def test_a_reference_moves_once_a_batch_after_its_updates():
    class Moving(BigramReference):
        moves = []

        def advance(self, policy):
            self.moves.append(policy.policy_VV.detach().clone())

    class Two(Plain):
        updates = Updates(epochs=2)

    reference = Moving(Config())
    made = loop(Two(Config()), Counting(), reference=reference)
    for number in range(2):
        made.step(number)
    assert len(reference.moves) == 2 and torch.equal(reference.moves[1], made.policy.policy_VV)


class Infinite(Plain):
    """A policy and a text stream; rows of either are infinite where told so."""

    streams = {"text": Demonstrations}
    terms = (Term("loss"), Term("text", rows="text"))
    bad = {"batch": [], "text": []}

    def _of(self, name, batch):
        value_N = -batch.responses.policy_N
        bad_N = torch.isin(batch.row_N, torch.tensor(self.bad[name], dtype=torch.long))
        return Loss(value_N * torch.where(bad_N, torch.inf, 1.0))

    def loss(self, batch):
        return self._of("batch", batch)

    def text(self, batch):
        return self._of("text", batch)


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"batch": [3], "text": []}, "Rows that are not finite: 3."),
        ({"batch": [], "text": [2, 5]}, "Rows that are not finite: 2 of text, 5 of text."),
        ({"batch": [1], "text": [4]}, "Rows that are not finite: 1, 4 of text."),
    ],
)
def test_rows_that_are_not_finite_are_named_by_stream_and_once_a_group(bad, named):
    class Told(Infinite):
        pass

    Told.bad = bad
    made = loop(Told(Config()), Counting())
    before = made.policy.policy_VV.clone()
    with pytest.raises(NotFinite) as raised:
        made.step(0)
    assert named in str(raised.value)
    term = "loss" if bad["batch"] else "text"
    assert f"the term {term!r} is inf" in str(raised.value)
    assert torch.equal(made.policy.policy_VV, before)
