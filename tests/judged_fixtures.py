"""Judges of labels, and what they label, that the tests of them share."""

from __future__ import annotations

import json
from collections import Counter

from maker_fixtures import ANSWERED, all_of, opened, setting

from trimtab import Config
from trimtab.core.judge import Judge, Verdict
from trimtab.plugins.makers.labels import Labels, LabelsConfig


def made_by(tmp_path, judge, *rewards, rows=ANSWERED, steps_of=3, **options):
    """The maker, the data set and the steps."""
    given = setting(tmp_path, rows, *rewards, judge=judge)
    made = opened(Labels, LabelsConfig(by="judge", **options), given)
    return made, *all_of(made, steps_of)


def labelled(tmp_path, judge, *rewards, **options):
    """The data set and the steps."""
    return made_by(tmp_path, judge, *rewards, **options)[1:]


def figures(made, steps):
    """What ``data.json`` says of the judge."""
    counts = sum((Counter(step.counts) for step in steps), Counter())
    found = made.figures(counts)
    json.dumps(found)
    return found["judge"]


class Shorter(Judge):
    """Likes what is shorter; says nothing of what ends in 7."""

    name = "shorter"
    options = Config

    def compare(self, comparisons):
        self.asked = list(comparisons)
        return [
            Verdict(None, ()) if one.first[-1] == "7" else Verdict(self._first(one), ("it is",))
            for one in comparisons
        ]

    def _first(self, one):
        return 0.8 if len(one.first) < len(one.second) else 0.2

    def score(self, ratings):
        raise NotImplementedError


class AlwaysFirst(Shorter):
    """Takes what it is shown first, whatever it is."""

    name = "always_first"

    def compare(self, comparisons):
        return [Verdict(0.5, ("1", "1"), (1.0, 0.0)) for _ in comparisons]


class Letters(Shorter):
    """Asked "a?", P is the share of that letter; of a question it does not know it says nothing.

    Each comparison is two requests.
    """

    name = "letters"
    requests = 0

    def compare(self, comparisons):
        self.requests += 2 * len(comparisons)
        return [self._of(one) for one in comparisons]

    def score(self, ratings):
        self.requests += len(ratings)
        return [
            Verdict(None, ("hm",), why="no number in it")
            if "7" in one.completion
            else Verdict(float(len(one.completion)), ("so long",))
            for one in ratings
        ]

    def counts(self):
        found, self.requests = {"requests": self.requests}, 0
        return found

    def describe(self):
        return {"name": self.name, "model": "none"}

    def _of(self, one):
        letter = "a" if one.question is None else one.question[0]
        counts = [text.count(letter) for text in (one.first, one.second)]
        if not sum(counts):
            return Verdict(None, ("neither",), (None, None), "no such letter")
        first = counts[0] / sum(counts)
        return Verdict(first, ("1", "2"), (first, first))


class Rater(Letters):
    """Rates by length; says nothing of what has a 7 in it."""

    name = "rater"
    mode = "score"


GIVEN = [
    {"prompt": "One:", "chosen": " aab", "rejected": " abb"},
    {"prompt": "Two:", "chosen": " bbb", "rejected": " aaa"},
    {"prompt": "Three:", "chosen": " ab", "rejected": " abc"},
    {"prompt": "Four:", "chosen": " bb", "rejected": " b"},
    {"prompt": "Five:", "chosen": " b", "rejected": " a", "preference": 0.25},
    {"prompt": "Six:", "chosen": " a", "rejected": " aa", "preference": 0.5},
]
"""The judge of the letter a agrees with rows 1 and 5, not with 2, and 3 is a tie; of 4 it says
nothing, and 6 is a tie itself."""
