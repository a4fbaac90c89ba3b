"""Every design in every kind of space, and what is particular to each."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from mixopt import designs
from mixopt.domains import Domain
from mixopt.errors import JobError
from mixopt.methods.olmix import Olmix
from mixopt.methods.regmix import RegMix
from mixopt.mixture import Mixture
from mixopt.space import MixtureSpace
from mixopt.study import Study


def space(domains: int, **more: object) -> MixtureSpace:
    return MixtureSpace(tuple(Domain(f"d{i:03}", 100 * (1 + i % 7)) for i in range(domains)), 200, **more)  # type: ignore[arg-type]


SPACES = {
    "two": space(2),
    "two, hardly any room": space(2, lower={"d000": 0.49}, upper={"d000": 0.51}),
    "seven": space(7),
    "seven, bounds": space(7, lower={"d001": 0.1, "d002": 0.05}, upper={"d000": 0.2, "d006": 0.3}),
    "four, tight": space(4, lower={"d000": 0.2, "d001": 0.2}, upper={f"d{i:03}": 0.3 for i in range(4)}),
    "no prior for one": space(3, prior=Mixture({"d000": 0.5, "d001": 0.5, "d002": 0.0})),
    "two hundred": space(200),
}


@pytest.fixture(params=designs.DESIGNS)
def design(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def draw(design: str, space: MixtureSpace, count: int, seed: int = 0) -> np.ndarray:
    return designs.draw(design, space, count, np.random.default_rng(seed))


def test_the_job_knows_every_design() -> None:
    assert get_args(designs.Name) == tuple(designs.DESIGNS)


@pytest.mark.parametrize("case", SPACES)
def test_mixtures_are_allowed_different_and_only_added_to(design: str, case: str) -> None:
    space = SPACES[case]
    few_ND, many_ND = draw(design, space, 12), draw(design, space, 31)
    np.testing.assert_array_equal(few_ND, many_ND[:12])
    np.testing.assert_allclose(many_ND.sum(axis=1), 1, atol=1e-9)
    assert (many_ND >= np.maximum(space.lower_D - 1e-9, 0)).all()
    assert (many_ND <= space.bound_D + 1e-9).all()
    gap_NN = np.abs(many_ND[:, None] - many_ND).max(axis=2)
    assert gap_NN[~np.eye(31, dtype=bool)].min() > 1e-9


def test_more_than_a_design_has(design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(designs, "DRAWS", 10)
    w_ND = draw(design, space(3), 60)
    assert len(np.unique(w_ND.round(9), axis=0)) == 60
    np.testing.assert_array_equal(w_ND[:40], draw(design, space(3), 40))
    assert draw(design, space(3), 0).shape == (0, 3)


def test_the_order_of_domains_cannot_matter(design: str) -> None:
    other = MixtureSpace(space(5).domains[::-1], 200)
    np.testing.assert_array_equal(draw(design, space(5), 9), draw(design, other, 9))


def test_only_the_generator_decides(design: str) -> None:
    one, other = draw(design, space(5), 24, seed=1), draw(design, space(5), 24, seed=2)
    assert not np.array_equal(one, other)


def test_an_unknown_design_is_refused() -> None:
    with pytest.raises(JobError, match="proxies.design: unknown design 'sobel'; did you mean 'sobol'"):
        draw("sobel", space(2), 1)


@pytest.mark.parametrize("method", [Olmix(), RegMix()])
def test_methods_ask_for_the_study_s_design(method: Olmix | RegMix, toy_study: Study) -> None:
    def ids(study: Study) -> list[str]:
        return [spec.id for spec in method.ask(study, np.random.default_rng([0, 0]))]

    before = toy_study.specs(toy_study.space.dirichlet(toy_study.count, np.random.default_rng([0, 0])))
    assert ids(toy_study) == [spec.id for spec in before]
    found = {name: tuple(ids(replace(toy_study, design=name))) for name in designs.DESIGNS}
    assert len(set(found.values())) == len(designs.DESIGNS)


def test_regmix_draws_multiples_below_fifteen_priors() -> None:
    swarm = MixtureSpace(tuple(Domain(n, t) for n, t in (("a", 1), ("b", 40), ("c", 59))), 100)
    w_ND = draw("regmix", swarm, 200)
    assert w_ND[:, 0].max() <= 15 * 0.01 + 1e-9
    assert w_ND[:, 0].max() > 0.1
    np.testing.assert_allclose(w_ND * 5000, np.round(w_ND * 5000), atol=2)  # sums of rounded shares are near 1
    assert (w_ND == 0).any(axis=1).mean() > 0.5
    regmix, ours = (np.median((draw(name, space(17), 100) ** 2).sum(axis=1)) for name in ("regmix", "dirichlet"))
    assert regmix > 1.5 * ours


def test_olmix_draws_topics_within_their_source() -> None:
    names = {"web:art": 300, "web:law": 300, "code": 400}
    swarm = MixtureSpace(tuple(Domain(n, t) for n, t in names.items()), 1000)
    w_ND = draw("olmix", swarm, 400)
    web_N = w_ND[:, swarm.names.index("web:art")] + w_ND[:, swarm.names.index("web:law")]
    assert web_N.mean() == pytest.approx(0.6, abs=0.06)
    assert ((w_ND == 0) | (w_ND >= 0.002 * 0.002)).all()
    both = (w_ND[:, 1:] > 0.05).all(axis=1) & (web_N > 0.99)
    assert both.any()  # nearly one source, but not nearly one domain: two levels
    assert (((w_ND[:, None] - w_ND) ** 2).sum(axis=2)[~np.eye(400, dtype=bool)] >= 0.01**2 - 1e-12).all()


def test_one_hot_and_leave_one_out() -> None:
    swarm, four = MixtureSpace(tuple(Domain(n, t) for n, t in (("a", 10), ("b", 20), ("c", 70))), 100), space(4)
    w_ND = draw("one_hot", swarm, 8)
    np.testing.assert_array_equal(w_ND[:3], np.eye(3))
    without = np.array([[0, 2 / 9, 7 / 9], [1 / 8, 0, 7 / 8], [1 / 3, 2 / 3, 0]])
    np.testing.assert_allclose(w_ND[3:6], without, atol=1e-8)
    w_ND = draw("leave_one_out", swarm, 8)
    np.testing.assert_allclose(w_ND[:4], np.vstack([[0.1, 0.2, 0.7], without]), atol=1e-8)
    capped = replace(four, upper={"d000": 0.6}, lower={"d003": 0.1})
    first_D = draw("one_hot", capped, 1)[0]
    assert first_D == pytest.approx(np.array([0.6, 0.8 / 9, 1.2 / 9, 1.6 / 9]))  # the rest as in the prior


def test_sobol_is_uniform_and_more_even_than_chance() -> None:
    """Dirichlet(1, ..., 1): mean 1/D, variance (D - 1) / (D^2 (D + 1)), P(p_0 > t) = (1 - t)^(D - 1)."""
    w_ND = draw("sobol", space(6), 1024)
    np.testing.assert_allclose(w_ND.mean(axis=0), 1 / 6, atol=5e-4)
    np.testing.assert_allclose(w_ND.var(axis=0), 5 / (36 * 7), rtol=0.02)
    for t in (0.1, 0.3):
        np.testing.assert_allclose((w_ND > t).mean(axis=0), (1 - t) ** 5, atol=0.006)
    chance = np.random.default_rng(0).dirichlet(np.ones(6), 1024)
    assert np.abs(w_ND.mean(axis=0) - 1 / 6).max() < np.abs(chance.mean(axis=0) - 1 / 6).max() / 3


@pytest.mark.parametrize("upper", [0.5, 0.35, 0.27])
def test_sobol_within_bounds_is_uniform_there(upper: float) -> None:
    """Against rejection: uniform points of the simplex that happen to obey the bounds, or their mirror image."""
    bounds = {f"d{i:03}": upper for i in range(3)}
    w_ND = draw("sobol", space(4, lower={"d003": 0.05}, upper=bounds), 1024)
    room = np.random.default_rng(1).random((400_000, 3)) * upper
    inside = room[(room.sum(axis=1) <= 0.95)]
    np.testing.assert_allclose(w_ND[:, :3].mean(axis=0), inside.mean(axis=0), rtol=0.02)
    np.testing.assert_allclose(w_ND[:, :3].std(axis=0), inside.std(axis=0), rtol=0.03)


def test_the_linear_law_is_best_told_by_corners() -> None:
    """First-order D-optimal designs of the simplex are its corners, second-order ones also midpoints of edges."""
    w_ND = designs.draw("d_optimal", space(5), 5, np.random.default_rng(0), "linear")
    np.testing.assert_array_equal(np.sort(w_ND.argmax(axis=1)), np.arange(5))
    assert w_ND.max(axis=1).tolist() == [1] * 5
    w_ND = designs.draw("d_optimal", space(4), 10, np.random.default_rng(0), "quadratic")
    assert set(np.unique(w_ND[:10])) <= {0, 0.5, 1}
    assert sorted((w_ND > 0).sum(axis=1).tolist()) == [1] * 4 + [2] * 6


@pytest.mark.parametrize("law", designs.KERNELS)
def test_optimal_designs_do_what_they_promise(law: str) -> None:
    """Against the same numbers of draws: more information (D), less variance left at allowed places (I)."""
    swarm, kernel = space(6), designs.KERNELS[law]
    places_ED = swarm.project(swarm.dirichlet(200, np.random.default_rng(9)))
    found = {}
    for name in ("dirichlet", "sobol", "d_optimal", "i_optimal"):
        w_ND = designs.draw(name, swarm, 20, np.random.default_rng(3), law)
        K = kernel(np.vstack([w_ND, places_ED]))
        noisy = K[:20, :20] + designs.NOISE**2 * np.eye(20)
        left = K[20:, 20:].trace() - np.trace(K[20:, :20] @ np.linalg.solve(noisy, K[:20, 20:]))
        found[name] = (np.linalg.slogdet(noisy)[1], left)
    if law != "effdata":  # its scale is that of the candidates, so determinants do not compare between sets
        assert found["d_optimal"][0] == max(value for value, _ in found.values())
    assert found["i_optimal"][1] < min(left for name, (_, left) in found.items() if name in ("dirichlet", "sobol"))
