from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from subprocess import run
from typing import Any

import numpy as np
import pytest

from mixopt import drawing, plots, report, uncertainty, validate
from mixopt.domains import Domain
from mixopt.errors import DataError
from mixopt.laws.loglinear import LogLinear
from mixopt.proposers import minimise
from mixopt.report_numbers import binding, duration, flops, number, percent, places, points, scaled, share, signed
from mixopt.report_text import highlights, sections, verdict
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.validate import Interval

NAMES = ("web", "code", "papers", "forums", "books", "math")
TITLES = (
    "Recommended proportions",
    "Gain and regressions",
    "Predicted against observed",
    "During training",
    "How much the mixture matters",
    "Cost",
    "Notes and limits",
    "Provenance",
)


def _interval(differences: np.ndarray) -> dict[str, float]:
    return asdict(Interval.paired(differences.tolist()))


def _validation(rng: np.random.Generator, names: list[str], gain: float, mixtures: dict[str, Any]) -> dict[str, Any]:
    base_D, effect_D = rng.uniform(0.7, 1.4, len(names)), rng.normal(0, 0.025, len(names))
    effect_D += gain - effect_D.mean()
    short = {"recommended": 0.0, "prior": 1.0, "uniform": 1.6, "best swarm point": 0.3}
    arms = {}
    for arm, share_lost in short.items():
        seeds_SD = base_D + share_lost * effect_D + rng.normal(0, 0.004, (5, len(names)))
        metrics = {f"bpb/{n}": seeds_SD[:, j].tolist() for j, n in enumerate(names)}
        arms[arm] = {"mixture": mixtures[arm], "objective": seeds_SD.mean(1).tolist(), "metrics": metrics}
    best = arms["recommended"]
    differences = {
        arm: {
            "objective": _interval(np.subtract(a["objective"], best["objective"])),
            "metrics": {m: _interval(np.subtract(a["metrics"][m], best["metrics"][m])) for m in a["metrics"]},
        }
        for arm, a in arms.items()
        if arm != "recommended"
    }
    gain = Interval(**differences["prior"]["objective"])
    return {
        "seeds": 5,
        "level": 0.95,
        "size": "4M",
        "tokens": 25_000_000,
        "arms": arms,
        "differences": differences,
        "gain_over_prior": asdict(gain),
        "noise": float(np.std(best["objective"], ddof=1)),
        "verdict": validate.verdict(
            gain, {arm: Interval(**d["objective"]) for arm, d in differences.items() if arm != "prior"}
        ),
    }


def _fit(rng: np.random.Generator, metrics: list[str], observed: np.ndarray) -> dict[str, Any]:
    def scores() -> dict[str, float]:
        rho = rng.uniform(0.86, 0.98)
        return {"spearman": rho, "mae": rng.uniform(0.004, 0.012), "r2": rho**2, "coverage90": rng.uniform(0.8, 0.95)}

    targets = {m: scores() for m in metrics}
    mean = {key: fmean(target[key] for target in targets.values()) for key in scores()}
    columns = {m: (observed + rng.normal(0, 0.05, len(observed))).tolist() for m in metrics}
    return {
        "law": "lightgbm",
        "runs": len(observed),
        "targets": targets,
        "mean": mean,
        "mean_loss": scores(),
        "own_proportion": {m: rng.uniform(0.45, 0.9) for m in metrics},
        "out_of_fold": {
            "observed": columns,
            "predicted": columns,
            "objective_observed": observed.tolist(),
            "objective_predicted": (observed + rng.normal(0, 0.012, len(observed))).tolist(),
        },
    }


def _path(end: float, lead: float, rng: np.random.Generator) -> list[list[float]]:
    """A loss curve to `end` whose lead over the prior grows on the way."""
    part_T = np.arange(1, 11) / 10
    value_T = end + 0.16 * (part_T**-0.8 - 1) - lead * (1 - part_T) ** 1.5 + rng.normal(0, 0.001, 10) * (part_T < 1)
    return [[int(25e6 * part), value] for part, value in zip(part_T, value_T.tolist(), strict=True)]


def document(domains: int = 6, gain: float = 0.03, seed: int = 0) -> dict[str, Any]:
    """A results document as a search over this many domains would leave it."""
    rng = np.random.default_rng(seed)
    names = [*NAMES, *(f"crawl-{j:03d}-topic" for j in range(domains))][:domains]
    tokens_D = np.sort(rng.lognormal(23.0, 1.3, domains))[::-1].round()
    target, cap = round(tokens_D.sum() * 1.6), 4.0
    prior_D = tokens_D / tokens_D.sum()
    upper_D = np.minimum(1, cap * tokens_D / target)
    w_D = prior_D * rng.lognormal(0, 1.0, domains)
    for _ in range(50):
        w_D = np.minimum(w_D / w_D.sum(), upper_D)
    w_D = w_D / w_D.sum()
    rows = [
        {
            "name": name,
            "tokens": int(tokens_D[j]),
            "prepared_tokens": int(tokens_D[j] / 400),
            "prior": prior_D[j],
            "recommended": w_D[j],
            "lower": 0.0,
            "upper": upper_D[j],
            "epochs": target * w_D[j] / tokens_D[j],
            "epochs_prior": 1.6,
            "supply": int(tokens_D[j] / 5000),
        }
        for j, name in enumerate(names)
    ]
    mixtures = {
        "recommended": dict(zip(names, w_D.tolist(), strict=True)),
        "prior": dict(zip(names, prior_D.tolist(), strict=True)),
        "uniform": dict.fromkeys(names, 1 / domains),
        "best swarm point": dict(zip(names, rng.dirichlet(np.ones(domains)).tolist(), strict=True)),
    }
    metrics = [f"bpb/{name}" for name in names]
    validation = _validation(rng, names, gain, mixtures)
    level = {arm: fmean(a["objective"]) for arm, a in validation["arms"].items()}
    observed = level["recommended"] + 0.02 + rng.gamma(1.6, 0.035, 64)
    return {
        "schema": "mixopt.results/v1",
        "name": "six-domains" if domains == 6 else f"corpus of {domains}",
        "method": "regmix",
        "law": "lightgbm",
        "seed": 0,
        "domains": rows,
        "target": {"tokens": target, "max_epochs": cap},
        "proxy": {
            "size": "4M",
            "parameters": 4_194_304,
            "tokens": 25_000_000,
            "sequence": 512,
            "batch": 32,
            "learning_rate": 2e-3,
            "count": 64,
            "derived": [
                "tokens: 25 M, six tokens for each parameter, the least that ranked mixtures stably.",
                "learning rate: 0.002, from the size by the square-root rule.",
            ],
        },
        "objective": {"weights": dict.fromkeys(metrics, 1.0)},
        "predicted": {
            "objective": level["recommended"] - 0.004,
            "interval": [level["recommended"] - 0.02, level["recommended"] + 0.012],
            "level": 0.9,
            "metrics": dict.fromkeys(metrics, 1.0),
        },
        "fit": _fit(rng, metrics, observed),
        "validation": validation,
        "trajectories": [{"label": arm, "points": _path(end, end - level["prior"], rng)} for arm, end in level.items()],
        "swarm": {
            "objective": observed.tolist(),
            "best": float(observed.min()),
            "failed": [{"id": "5f0c9d1e7a2b3c4d5e6f", "error": "loss was not finite at step 118"}],
        },
        "cost": {
            "proxies_trained": 63,
            "proxies_reused": 21,
            "tokens": 64 * 25_000_000,
            "flops": 4.03e16,
            "seconds": 15_130.0,
            "worker_seconds": 30_000.0,
            "share_of_target": 2.1e-4,
        },
        "notes": [
            "Proxies repeat a domain as often as the real run would: supply is scaled by proxy over target tokens.",
            "Proportions under 0.0002 were set to zero in 3 draws and the rest renormalised.",
        ],
        "provenance": {
            "mixopt": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "machine": {"cpu": "16 cores", "gpu": "none"},
            "data": "9f2c51d0a7be4416",
            "tokenizer": "bpe 8192, 77aa01c2",
            "job": "search:\n  method: regmix\n  count: 64\n",
        },
    }


def _null(**parts: Any) -> dict[str, Any]:
    return {**document(), **parts}


def _seed_alone() -> dict[str, Any]:
    body = document()
    v = body["validation"]
    v["seeds"], v["noise"], v["verdict"] = 1, None, "The gain is inside the noise: one seed has no interval."
    for difference in [v["gain_over_prior"], *(d["objective"] for d in v["differences"].values())]:
        difference["low"] = difference["high"] = None
    for d in v["differences"].values():
        for metric in d["metrics"].values():
            metric["low"] = metric["high"] = None
    return body


def _baseline() -> dict[str, Any]:
    nothing = {"objective": None, "interval": None, "level": 0.9, "metrics": {}}
    cost = {
        "proxies_trained": 0,
        "proxies_reused": 0,
        "tokens": 0,
        "flops": 0.0,
        "seconds": 0.0,
        "worker_seconds": 0.0,
        "share_of_target": None,
    }
    swarm = {"objective": [], "best": None, "failed": []}
    parts = {
        "validation": None,
        "fit": None,
        "law": None,
        "trajectories": [],
        "predicted": nothing,
        "cost": cost,
        "swarm": swarm,
    }
    return _null(**parts, target={"tokens": 10**11, "max_epochs": None})


SURE = ("How sure the answer is", "What if a domain moved", "What the limits cost")


def uncertain(domains: int = 6) -> dict[str, Any]:
    """A document of which the uncertainty was measured, over laws around one that is known."""
    body, rng = document(domains), np.random.default_rng(7)
    space = MixtureSpace(tuple(Domain(d["name"], d["tokens"]) for d in body["domains"]), body["target"]["tokens"], 4.0)
    objective = Objective(body["objective"]["weights"])
    slopes_MD = rng.normal(0, 0.25, (domains, domains))
    slopes_MD[range(domains), [space.names.index(m.partition("/")[2]) for m in objective.metrics]] -= 1

    def law(t_MD: np.ndarray) -> LogLinear:
        made = LogLinear()
        made.single_, made.log_c_, made.t_ = False, np.full(domains, np.log(0.5)), t_MD - 1
        return made

    def optimum(law: LogLinear) -> np.ndarray:
        return minimise(law.curve(objective.weights_M), space, 0.01)

    fitted, others = law(slopes_MD), [law(slopes_MD + rng.normal(0, 0.05, slopes_MD.shape)) for _ in range(24)]
    answer = uncertainty.Answer.of(space, objective, fitted, optimum(fitted), others, optimum)
    for d in body["domains"]:
        d["recommended"] = float(answer.p_D[space.names.index(d["name"])])
        d["epochs"] = d["recommended"] * body["target"]["tokens"] / d["tokens"]
    noise = {"objective": 0.004, "metrics": dict.fromkeys(objective.metrics, 0.01), "source": "law", "runs": 64}
    body["uncertainty"] = {"source": "bootstrap", "noise": noise, **uncertainty.measure(answer, rng)}
    body["proposal"] = {
        "how": "exact",
        "floors": [
            {"metric": "bpb/code", "limit": 0.95, "predicted": 0.95, "price": 0.2},
            {"metric": "bpb/web", "limit": 0.99, "predicted": 0.91, "price": 0.0},
        ],
        "cap_prices": [
            {"name": "code", "kind": "max_epochs", "limit": 0.3, "price": 0.12, "per_epoch": 0.007},
            {"name": "kl", "kind": "trust", "limit": 0.5, "price": 0.03, "per_epoch": None},
            {"name": "web", "kind": "lower", "limit": 0.1, "price": 0.02, "per_epoch": None},
        ],
    }
    if body["validation"]:
        change = {"allowed": 0.01, "mean": 0.0182, "low": 0.0051, "high": 0.0313}
        body["validation"]["floors"] = [{"metric": "bpb/code", **change, "kept": "no", "says": "code is worse"}]
    return json.loads(json.dumps(body, allow_nan=False))


def titles(name: str) -> tuple[str, ...]:
    return (*TITLES[:2], *SURE, *TITLES[2:]) if name.startswith("uncertain") else TITLES


DOCUMENTS = {
    "six": document,
    "uncertain": uncertain,
    "uncertain, not validated": lambda: {**uncertain(), "validation": None, "trajectories": []},
    "uncertain, forty": lambda: uncertain(40),
    "thirty": lambda: document(30, gain=0.012, seed=3),
    "two": lambda: document(2, gain=-0.03),
    "noise": lambda: document(gain=0.0005, seed=5),
    "not validated": lambda: _null(validation=None, trajectories=[]),
    "no law": lambda: _null(fit=None, law=None),
    "one seed": _seed_alone,
    "baseline": _baseline,
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: report.html(make()) for name, make in DOCUMENTS.items()}


class _Page(HTMLParser):
    """Checks that tags nest; keeps headings, ids, the addresses that would be loaded, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self._keep(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._keep(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def _keep(self, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.loads += [value or "" for key, value in attrs if key.split(":")[-1] in ("src", "href", "srcset", "data")]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_page_is_whole_and_needs_no_network(pages: dict[str, str], name: str) -> None:
    page = _Page(pages[name])
    assert not page.open
    assert tuple(page.headings) == titles(name)
    assert len(page.ids) == len(set(page.ids))
    assert all(load.startswith("#") and load[1:] in page.ids for load in page.loads)
    assert not re.search(r"@import|<script|<link|<iframe|url\((?!#)", pages[name])
    assert set(re.findall(r"https?://[^\"\s]*", pages[name])) <= {"http://www.w3.org/2000/svg"}
    assert "nan" not in re.findall(r"\b\w+\b", " ".join(page.text))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_markdown_has_the_same_words(pages: dict[str, str], name: str) -> None:
    body = DOCUMENTS[name]()
    text = report.markdown(body)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(titles(name))
    assert verdict(body)[1] in text
    assert verdict(body)[1] in unescape(pages[name])
    widths = [row.count(" |") for row in text.splitlines() if row.startswith(("| ", "| :--"))]
    assert min(widths, default=2) >= 2
    assert "<svg" not in text


def test_numbers_are_the_documents(pages: dict[str, str]) -> None:
    body, page = document(), unescape(pages["six"])
    first = page[page.index("Recommended proportions") : page.index("<figure>")]
    for d in body["domains"]:
        change = f"{100 * (d['recommended'] - d['prior']):+.1f} pp".replace("-", "−")
        cells = (f"{100 * d['prior']:.1f} %", f"{100 * d['recommended']:.1f} %", change, f"{d['epochs']:.2f}")
        row = "".join(f'<td class="r">{cell}</td>' for cell in cells)
        assert f'<th scope="row">{d["name"]}</th>{row}' in first
    gain = body["validation"]["gain_over_prior"]
    assert f"saves {gain['mean']:.4f} bits per byte against the prior" in page
    assert f"{gain['low']:+.4f} to {gain['high']:+.4f}" in page
    for scores in body["fit"]["targets"].values():
        assert f"{scores['spearman']:+.3f}" in page
    exact = json.loads(page[page.index("<pre>") + 5 : page.index("</pre>")])
    assert exact == {d["name"]: d["recommended"] for d in body["domains"]}
    assert "40.3 PFLOP" in page
    assert "0.021 %" in page
    assert "4 h 12 min" in page


@pytest.mark.parametrize(
    ("name", "tone", "start"),
    [
        ("six", "better", "Use this mixture: it saves 0.0"),
        ("noise", "noise", "The gain is inside the noise: "),
        ("two", "worse", "Do not use this mixture: it costs 0.0"),
        ("one seed", "noise", "The gain is inside the noise: "),
        ("not validated", "noise", "Not validated against the prior: the law alone predicts an objective of 0.9"),
        ("baseline", "noise", "Neither validated nor predicted"),
    ],
)
def test_verdict(name: str, tone: str, start: str) -> None:
    got, said = verdict(DOCUMENTS[name]())
    assert (got, said[: len(start)]) == (tone, start)
    assert said.count(".") >= 1 and said.endswith(".")


def test_uncertainty_is_shown_as_it_was_measured(pages: dict[str, str]) -> None:
    body, page = uncertain(), unescape(pages["uncertain"])
    known = body["uncertainty"]
    proportions = page[page.index("Recommended proportions") : page.index("<figure>")]
    sure = page[page.index("<h2>How sure") : page.index("<h2>What if")]
    for d in body["domains"]:
        low, high = known["proportions"][d["name"]]
        ends = f'<td class="r">{100 * low:.1f} to {100 * high:.1f} %</td>'
        assert f'<td class="r">{100 * d["recommended"]:.1f} %</td>{ends}' in proportions
        reached = "{:.1f} to {:.1f} %".format(*(100 * x for x in known["region"]["ranges"][d["name"]]))
        simplest = f"{100 * known['region']['simplest']['mixture'][d['name']]:.1f} %"
        chance = f"{100 * known['caps'][d['name']]:.0f} %"
        assert "".join(f'<td class="r">{cell}</td>' for cell in (reached, simplest, chance)) in sure
    gain = known["gain"]
    assert f"a gain of {gain['value']:.4f} bits per byte against the prior (90 % interval {gain['low']:+.4f}" in sure
    assert highlights(body)[0][:2] == ("Predicted gain", f"{gain['value']:+.4f}")
    assert "No mixture was run twice" not in sure  # validation's seeds say how noisy runs are
    assert "No mixture was run twice" in pages["uncertain, not validated"]
    moves = sum(change is not None for ways in known["effects"].values() for change in ways.values())
    assert f"Of {moves} moves that the bounds allow" in page
    assert "Loosening the floor on code by 0.01 would gain 0.0020 bits per byte." in page
    assert "The floor on web costs nothing." in page
    assert "One more epoch of code would gain 0.0070 bits per byte." in page
    assert "Moving target.trust.kl by 0.01 would gain 0.00030 bits per byte." in page
    assert "Moving the lower bound of web by one percentage point would gain 0.00020 bits per byte." in page
    cost = page[page.index("<h2>What the limits") :]
    row = cost[cost.index("<tr", cost.index("<tbody")) : cost.index("</tr>", cost.index("<tbody"))]
    assert [cell in row for cell in ("worse", "+1.00 %", "+1.82 %", "+0.51 to +3.13 %", ">no<")] == [True] * 5


def test_the_laws_word_stands_where_nothing_was_validated() -> None:
    body = DOCUMENTS["uncertain, not validated"]()
    assert "The law predicts a gain of 0.0" in verdict(body)[1]
    body["uncertainty"]["gain"] |= {"low": -0.01}
    assert "The predicted gain is inside the noise: +0.0" in verdict(body)[1]
    assert verdict(body)[1] in report.markdown(body)


def test_moves_without_room_are_left_out() -> None:
    body = uncertain()
    for ways in body["uncertainty"]["effects"].values():
        ways["up"] = ways["down"] = None
    assert "What if a domain moved" not in sections(body)
    assert "How sure the answer is" in report.html(body)


def test_regressions_are_named_and_red(pages: dict[str, str]) -> None:
    page = pages["two"]
    assert "worse: code, web" in page
    differences = DOCUMENTS["two"]()["validation"]["differences"]
    winners = [arm for arm, d in differences.items() if d["objective"]["high"] < 0]
    assert "prior" in winners
    assert f"Better than the recommendation, beyond the noise: {', '.join(winners)}." in page
    assert page.count(f"var(--worse, {drawing.LIGHT['worse']})") >= 2
    assert '<tr class="worse">' in page


def test_binding_caps_and_bounds() -> None:
    domain = {"recommended": 0.2, "lower": 0.0, "upper": 0.2, "epochs": 4.0}
    assert binding(domain, 4.0) == "max_epochs"
    assert binding({**domain, "epochs": 1.0}, 4.0) == "upper"
    assert binding({**domain, "epochs": 1.0}, None) == "upper"
    assert binding({**domain, "upper": 1.0, "lower": 0.2}, 4.0) == "lower"
    assert binding({**domain, "upper": 1.0}, 4.0) == ""


def test_names_are_escaped() -> None:
    body = document()
    evil = "<script>alert('1')</script> & \"x\" | $y_1$ *b* # 中文 \n" + "long" * 30
    body["domains"][0]["name"] = evil
    body["name"] = evil
    body["notes"] = [evil]
    body["provenance"]["job"] = evil
    body["fit"]["targets"][f"bpb/{evil}"] = body["fit"]["targets"]["bpb/web"]
    body["swarm"]["failed"] = [{"id": "1", "error": evil}]
    page = report.html(body)
    assert "<script" not in page
    assert escape(evil) in page
    assert not _Page(page).open
    text = report.markdown(body)
    assert "\\<script\\>" in text
    assert "\\| $y" in text


def test_two_hundred_domains_stay_small() -> None:
    body = document(200)
    page = report.html(body)
    assert len(page.encode()) < 2_000_000
    assert "175 are left out" in page
    assert "175 domains not shown" in page
    assert all(f'<th scope="row">{d["name"]}</th>' in page for d in body["domains"])


def test_same_document_same_bytes(tmp_path: Path, pages: dict[str, str]) -> None:
    again = json.loads(json.dumps(document()))
    files = report.write(again, tmp_path / "new")
    assert [file.name for file in files] == ["report.html", "report.md"]
    assert files[0].read_text(encoding="utf-8") == pages["six"]
    assert files[1].read_text(encoding="utf-8") == report.markdown(document())
    assert sorted(tmp_path.joinpath("new").iterdir()) == sorted(files)


def test_another_schema_is_refused() -> None:
    with pytest.raises(DataError, match=r"mixopt\.results/v2.*allowed 'mixopt\.results/v1'"):
        report.markdown({"schema": "mixopt.results/v2"})


def test_text_needs_no_matplotlib() -> None:
    code = "import sys, mixopt.report; sys.exit('matplotlib' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_picture_stands_alone() -> None:
    picture = plots.svg("swarm", document())
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg" width="760"')
    assert picture.rstrip().endswith("</svg>")
    assert set(drawing.LIGHT) == set(drawing.DARK)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", picture))
    assert all(colour == "none" or colour.startswith("var(--") for colour in colours)


def test_sections_have_something_to_say() -> None:
    for make in DOCUMENTS.values():
        assert all(blocks and all(blocks) for blocks in sections(make()).values())


def test_numbers_in_words() -> None:
    assert [number(x) for x in (1.02, 0.98765, -0.5, None, float("nan"))] == ["1.020", "0.9877", "−0.5000", "–", "–"]
    assert [scaled(x) for x in (25e9, 999_600, 1.2e12, 512, 3e15)] == ["25 B", "1 M", "1.2 T", "512", "3000 T"]
    assert [flops(x) for x in (1.2e15, 0.0, 6e21)] == ["1.2 PFLOP", "0 FLOP", "6 ZFLOP"]
    seconds = {3.14159: "3.14 s", 90: "2 min", 3599: "1 h 0 min", 15_130: "4 h 12 min", 400_000: "4.6 days"}
    assert {x: duration(x) for x in seconds} == seconds
    assert [percent(x) for x in (0.123, 0.0001, 0.0, 1.0)] == ["12.3 %", "< 0.1 %", "0.0 %", "100.0 %"]
    assert [share(x) for x in (2.1e-4, 1.5, 1e-9)] == ["0.021 %", "150 %", "less than 0.001 %"]
    assert (points(-0.081), signed(0.02134, 4)) == ("−8.1 pp", "+0.0213")
    assert [places(x) for x in ([0.0296, 0.01], [0.0031], [2.5], [0.0, None])] == [4, 5, 2, 2]
