"""What the likeliest tokens say of the options: exact, or nothing."""

from __future__ import annotations

import math

import pytest

from trimtab.plugins.judges.toplogprobs import Position, option_logps, positions_of

RATINGS = tuple(str(n) for n in range(1, 11))


def position(token, **top):
    """Probabilities, not their logs. Before a number stands n, or ``_`` for a blank."""
    listed = [(name.removeprefix("n").replace("_", " "), p) for name, p in top.items()]
    logp = dict(listed).get(token, 1.0)
    return Position(token, math.log(logp), [(name, math.log(p)) for name, p in listed])


def probabilities(positions, options=("1", "2")):
    found = option_logps(positions, options)
    return found and {option: round(math.exp(logp), 12) for option, logp in found.items()}


def test_the_same_answer_with_and_without_a_blank_adds_up():
    first = position("1", n1=0.5, _1=0.125, n2=0.25, The=0.1)
    assert probabilities([first]) == {"1": 0.625, "2": 0.25}


def test_an_option_that_is_not_listed_is_not_made_up():
    assert option_logps([position("1", n1=0.9, The=0.05)], ("1", "2")) is None
    assert option_logps([], ("1", "2")) is None


def test_a_word_that_only_begins_like_an_option_is_none():
    found = probabilities([position("1", n1=0.5, n2=0.1, n12=0.3)])
    assert found == {"1": 0.5, "2": 0.1}


def test_a_blank_token_before_the_answer_is_stepped_over_where_it_is_sure():
    after = position("2", n1=0.25, n2=0.5)
    sure = Position(" ", math.log(0.995), [(" ", math.log(0.995))])
    assert probabilities([sure, after]) == {"1": 0.25 * 0.995, "2": 0.5 * 0.995}
    unsure = Position(" ", math.log(0.9), [(" ", math.log(0.9))])
    assert option_logps([unsure, after], ("1", "2")) is None


def rated(**more):
    """0.05 for each of 1 to 9."""
    return position("5", **{f"n{n}": 0.05 for n in range(1, 10)}, **more)


def test_a_tokenizer_that_has_ten_says_all_ratings():
    found = probabilities([rated(n10=0.5)], RATINGS)
    assert found == {**dict.fromkeys(RATINGS[:9], 0.05), "10": 0.5}


def test_where_digits_are_split_ten_and_one_are_not_told_apart():
    assert option_logps([rated()], RATINGS) is None


def one_of(mass, token="1"):
    first = {**{f"n{n}": 0.05 for n in range(2, 10)}, "n1": mass}
    return position(token, **first)


def test_after_a_one_was_written_the_next_position_tells_them_apart():
    after = position("0", n0=0.75, n2=0.0625, end=0.125)
    found = probabilities([one_of(0.4), after], RATINGS)
    assert found["10"] == pytest.approx(0.4 * 0.75)
    assert found["1"] == pytest.approx(0.4 * (1 - 0.75 - 0.0625)) and found["2"] == 0.05


def test_the_next_position_tells_nothing_of_a_path_that_was_not_taken():
    after = position("0", n0=0.75, end=0.25)
    assert option_logps([one_of(0.4, token="5"), after], RATINGS) is None
    assert option_logps([one_of(0.4)], RATINGS) is None
    assert option_logps([one_of(0.4), position("end", end=0.9)], RATINGS) is None


def test_a_mass_that_is_negligible_is_halved():
    found = option_logps([one_of(8e-5, token="5")], RATINGS)
    assert math.exp(found["1"]) == math.exp(found["10"]) == pytest.approx(4e-5)


def test_log_probs_that_are_none_are_left_out():
    def entry(token, logp, top=()):
        return {"token": token, "logprob": logp, "top_logprobs": list(top)}

    spoilt = [entry("1", -0.5), entry("2", math.nan), entry("3", 0.5), entry(4, -1), "5", None]
    read = positions_of({"content": [entry("1", -0.5, spoilt), entry("2", -math.inf), 1]})
    assert read == [Position("1", -0.5, [("1", -0.5)])]
    for nothing in (None, [], {}, {"content": None}, {"content": "1"}):
        assert positions_of(nothing) == []
