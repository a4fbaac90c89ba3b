"""Mixtures and schedules: the simplex is checked, never mended silently."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixopt.errors import DataError
from mixopt.mixture import Mixture, Schedule


@pytest.mark.parametrize("bad", [{"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}, {"a": math.nan, "b": 1.0}, {}])
def test_off_the_simplex_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(DataError, match="mixture: proportions"):
        Mixture(bad)


def test_names_decide_not_order() -> None:
    a, b = Mixture({"web": 0.7, "code": 0.3}), Mixture({"code": 0.3, "web": 0.7})
    assert a == b
    assert hash(a) == hash(b)
    assert a.array(["web", "code"]).tolist() == [0.7, 0.3]


def test_unknown_and_missing_domains_are_named() -> None:
    m = Mixture({"web": 0.7, "code": 0.3})
    with pytest.raises(DataError, match=r"unknown domain 'code'; did you mean 'codes'\?"):
        m.array(["codes", "web"])
    with pytest.raises(DataError, match="no proportion for law"):
        m.array(["code", "law", "web"])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3))
def test_normalised_is_on_the_simplex_and_survives_arrays(weights: list[float]) -> None:
    m = Mixture.normalised({f"d{i:02}": w for i, w in enumerate(weights)})
    assert Mixture.from_array(list(m), m.array(list(m))) == m
    assert 1 - 1e-9 <= m.effective_domains <= len(weights) + 1e-9


def test_kl() -> None:
    p, q = Mixture({"a": 0.5, "b": 0.5}), Mixture({"a": 0.25, "b": 0.75})
    assert p.kl(q) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert p.kl(p) == 0
    assert p.kl(Mixture({"a": 1.0, "b": 0.0})) == math.inf


def test_schedule_mean_and_checks() -> None:
    a, b = Mixture({"x": 1.0, "y": 0.0}), Mixture({"x": 0.0, "y": 1.0})
    assert Schedule(((0.0, a), (0.75, b))).mean.array(["x", "y"]) == pytest.approx(np.array([0.75, 0.25]))
    for starts in ((0.1, 0.5), (0.0, 0.0), (0.0, 1.0), ()):
        with pytest.raises(DataError, match="schedule: phases"):
            Schedule(tuple((s, a) for s in starts))
