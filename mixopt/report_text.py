"""What the report says, before any format: sections of sentences, tables and charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev, quantiles
from typing import Any

from mixopt import report_feedback, report_uncertainty
from mixopt.report_blocks import Block, Chart, Fold, Table
from mixopt.report_numbers import (
    MISSING,
    SHOWN,
    UNITS,
    Change,
    Results,
    aligned,
    binding,
    changes,
    duration,
    finite,
    flops,
    label,
    listed,
    number,
    percent,
    places,
    plural,
    points,
    same_scale,
    scaled,
    share,
    shown_domains,
    signed,
    span,
    unit,
)


def sections(results: Results) -> dict[str, list[Block]]:
    """The whole report under its headings, in the order in which a lead reads."""
    return {
        "Recommended proportions": _proportions(results),
        **report_feedback.sections(results),
        "Gain and regressions": _gain(results),
        **report_uncertainty.sections(results),
        "Predicted against observed": _fit(results),
        "During training": _trajectories(results),
        "How much the mixture matters": _swarm(results),
        "Cost": _cost(results),
        "Notes and limits": _limits(results),
        "Provenance": _provenance(results["provenance"]),
    }


def subtitle(results: Results) -> str:
    """What was asked, in one line."""
    law = f", law {results['law']}" if results["law"] else ""
    target, domains = scaled(results["target"]["tokens"]), plural(len(results["domains"]), "domain")
    return f"{domains} for a run of {target} tokens; method {results['method']}{law}, seed {results['seed']}"


def verdict(results: Results) -> tuple[str, str]:
    """The tone, and the one sentence that the reader came for."""
    v = results["validation"]
    if not v:
        return "noise", _unvalidated(results)
    tone = Change("objective", **v["gain_over_prior"]).tone
    beaten = any(Change(arm, **d["objective"]).tone == "worse" for arm, d in v["differences"].items())
    return ("worse" if tone == "better" and beaten else tone), v["verdict"]


def _unvalidated(results: Results) -> str:
    if not finite(results["predicted"]["objective"]):
        return "Neither validated nor predicted: no run has compared the recommendation with the prior."
    said = f"Not validated against the prior: the law alone predicts an objective of {_prediction(results)}."
    return " ".join([said, *report_uncertainty.bare_gain(results)])


def highlights(results: Results) -> list[tuple[str, str, str]]:
    """Label, value and explanation of the few numbers at the top."""
    moved = sorted(results["domains"], key=lambda d: d["recommended"] - d["prior"])
    tiles = [
        (name, points(d["recommended"] - d["prior"]), f"{d['name']}, to {percent(d['recommended'])}")
        for name, d in (("Largest increase", moved[-1]), ("Largest decrease", moved[0]))
    ]
    if gain := report_uncertainty.tile(results):
        tiles = [gain, tiles[0]]
    if results["fit"]:
        spearman = number(results["fit"]["mean_loss"]["spearman"], 3)
        tiles.append(("Law, out of fold", spearman, "Spearman of the objective"))
    cost = results["cost"]
    part = cost["share_of_target"]
    of_target = f"{share(part)} of the target run" if finite(part) else f"{scaled(cost['tokens'])} proxy tokens"
    return [*tiles, ("Search cost", flops(cost["flops"]), of_target)]


def _proportions(results: Results) -> list[Block]:
    cap, shown, every = results["target"]["max_epochs"], shown_domains(results), results["domains"]
    bound = {d["name"]: binding(d, cap) for d in every}
    ends = report_uncertainty.proportion_ends(results)
    rows = [_row(d, ends, f"{d['epochs']:.2f}", bound[d["name"]]) for d in shown]
    if left := [d for d in every if d not in shown]:
        together = {key: sum(d[key] for d in left) for key in ("prior", "recommended")}
        name = f"{plural(len(left), 'domain')} not shown"
        rows.append(_row({"name": name, **together}, ends and {name: ""}, "", ""))
    epochs = f"Epochs, at most {cap:g}" if finite(cap) else "Epochs"
    sure = (f"{100 * results['uncertainty']['level']:g} % interval",) if ends else ()
    header = ("Domain", "Prior, share of tokens", "Recommended, share of tokens", *sure, "Change", epochs, "Stopped by")
    exact = json.dumps({d["name"]: d["recommended"] for d in every}, indent=2, ensure_ascii=False)
    caption = "Left: proportions. Right: how often the real run reads each domain; hollow is the prior."
    caption += " Lines on the bars: 90 % intervals of the recommendation." if ends else ""
    return [
        _bound_sentence(bound, cap, len(left)),
        Table(header, rows, "l" + "r" * (len(header) - 2) + "l", ["bound" if row[-1] else "" for row in rows]),
        Chart("proportions", caption),
        Fold("All domains with supply and bounds", _every_domain(every)),
        Fold("Recommended proportions, exact", exact),
    ]


def _row(domain: Mapping[str, Any], ends: Mapping[str, str], epochs: str, bound: str) -> tuple[str, ...]:
    """A line of the table of proportions; with an interval where there are any."""
    name, prior, recommended = (domain[key] for key in ("name", "prior", "recommended"))
    sure = (ends[name],) if ends else ()
    return name, percent(prior), percent(recommended), *sure, points(recommended - prior), epochs, bound


def _bound_sentence(bound: Mapping[str, str], cap: float | None, left: int) -> str:
    capped = [name for name, by in bound.items() if by == "max_epochs"]
    other = [name for name, by in bound.items() if by in ("lower", "upper")]
    said = []
    if left:
        said.append(f"The {SHOWN} domains with the largest change are shown; {left} are left out.")
    if capped:
        said.append(f"The cap of {cap:g} epochs stops {listed(capped)}: more text there would change the answer.")
    if other:
        said.append(f"Your own bounds stop {listed(other)}.")
    if not capped and not other:
        said.append("No cap or bound stops any domain.")
    return " ".join(said)


def _every_domain(domains: Sequence[Mapping[str, Any]]) -> Table:
    counts, proportions = ("tokens", "prepared_tokens", "supply"), ("prior", "recommended", "lower", "upper")
    titles = ("Available tokens", "Prepared tokens", "Proxy supply, tokens", "Prior", "Recommended", "Lower", "Upper")
    rows = [
        (
            d["name"],
            *(scaled(d[key]) for key in counts),
            *(percent(d[key]) for key in proportions),
            *(f"{d[key]:.2f}" for key in ("epochs_prior", "epochs")),
        )
        for d in domains
    ]
    return Table(("Domain", *titles, "Epochs of prior", "Epochs"), rows, "lrrrrrrrrr")


def _gain(results: Results) -> list[Block]:
    v = results["validation"]
    if not v:
        return ["Not validated: no run has trained the recommendation beside the prior."]
    found = changes(results)
    trained = f"Each arm was trained from {plural(v['seeds'], 'seed')}, size {v['size']}, {scaled(v['tokens'])} tokens."
    against = {arm: Change(arm, **d["objective"]).tone for arm, d in v["differences"].items()}
    if winners := [arm for arm, tone in against.items() if tone == "worse"]:
        trained += f" Better than the recommendation, beyond the noise: {listed(winners)}."
    blocks: list[Block] = [trained, _arms(results, against)]
    if not found:
        return blocks
    better, worse = ([c.label for c in found if c.tone == tone] for tone in ("better", "worse"))
    said = f"Against the prior {len(better)} of {plural(len(found), 'held-out metric')} improve beyond the noise"
    said += f"; worse: {listed(worse)}." if worse else " and none gets worse beyond the noise."
    if len(found) > SHOWN:
        said += f" The {SHOWN} largest changes are drawn; {len(found) - SHOWN} are left out."
    caption = f"Change against the prior with {100 * v['level']:g} % intervals over seeds, in {unit(results)}."
    red = " Squares in red are regressions; hollow dots are inside the noise."
    return [*blocks, said, Chart("changes", caption + red), Fold("All metrics", _metric_changes(results, found))]


def _arms(results: Results, tones: Mapping[str, str]) -> Table:
    v, u = results["validation"], unit(results)
    differences = v["differences"]
    decimals = places(d["objective"][key] for d in differences.values() for key in ("mean", "low", "high"))
    rows = []
    for arm, mean in zip(v["arms"], aligned([fmean(arm["objective"]) for arm in v["arms"].values()]), strict=True):
        d = differences.get(arm, {}).get("objective", {})
        rows.append((arm, mean, signed(d.get("mean"), decimals), span(d.get("low"), d.get("high"), decimals)))
    header = ("Arm", f"Objective, {u}", f"Recommendation better by, {u}", f"{100 * v['level']:g} % interval")
    return Table(header, rows, "lrrr", [tones.get(arm, "") for arm in v["arms"]])


def _metric_changes(results: Results, found: list[Change]) -> Table:
    decimals = places(x for c in found for x in (c.mean, c.low, c.high))
    words = {"better": "better", "worse": "worse", "noise": "inside the noise"}
    rows = [(c.label, signed(c.mean, decimals), span(c.low, c.high, decimals), words[c.tone]) for c in found]
    header = ("Held-out", f"Better by, {unit(results)}", f"{100 * results['validation']['level']:g} % interval", "Says")
    return Table(header, rows, "lrrl", [c.tone for c in found])


def _fit(results: Results) -> list[Block]:
    fit = results["fit"]
    if not fit:
        return ["Too few runs to score the law out of fold." if results["law"] else "This method fits no law."]
    band = "; the band is the noise of a seed" if same_scale(results) else ""
    caption = f"First: each dot is one run, predicted without it{band}. "
    caption += "Second: how well the law, and the domain's own proportion alone, rank the runs (1 is perfect)."
    chart: list[Block] = [Chart("predictions", caption)] if fit["out_of_fold"]["objective_observed"] else []
    return [_better_guide(fit), *_came_true(results), *chart, *_scores(fit, unit(results))]


def _scores(fit: Mapping[str, Any], u: str) -> list[Block]:
    own, decimals = fit["own_proportion"], places(score["mae"] for score in fit["targets"].values())
    rows = [_score_row(label(m), score, own.get(m), decimals) for m, score in fit["targets"].items()]
    ways = {"Mean of the rows": fit["mean"], "The objective": fit["mean_loss"]}
    best = rows[:SHOWN] + [_score_row(words, score, None, decimals) for words, score in ways.items()]
    header: tuple[str, ...]
    header = ("Held-out", "Spearman", "Spearman of own proportion", f"MAE, {u}", "R²", "Inside the 90 % interval")
    if all(row[-1] == MISSING for row in best):
        header, rows, best = header[:-1], [row[:-1] for row in rows], [row[:-1] for row in best]
    align = "l" + "r" * (len(header) - 1)
    rest: list[Block] = [Fold("All metrics", Table(header, rows, align))] if len(rows) > SHOWN else []
    return [Table(header, best, align), *rest]


def _better_guide(fit: Mapping[str, Any]) -> str:
    said = f"The law {fit['law']} was tested on {plural(fit['runs'], 'run')} of the swarm, each left out in turn."
    pairs = [(score["spearman"], fit["own_proportion"].get(m)) for m, score in fit["targets"].items()]
    pairs = [(law, own) for law, own in pairs if finite(law) and finite(own)]
    if not pairs:
        return said
    law, own = (fmean(column) for column in zip(*pairs, strict=True))
    who = "The law is the better guide" if law > own else "The own proportion alone is at least as good a guide"
    wins = f"{sum(law > own for law, own in pairs)} of {plural(len(pairs), 'metric')}"
    means = f"mean Spearman {number(law, 3)} against {number(own, 3)} for a domain's own proportion alone"
    return f"{said} {who}: {means}; the law ranks better on {wins}."


def _came_true(results: Results) -> list[Block]:
    """What the law said about the recommendation beside what was measured, where both have one scale."""
    predicted, v = results["predicted"], results["validation"]
    if not (finite(predicted["objective"]) and same_scale(results) and "recommended" in v["arms"]):
        return []
    measured = fmean(v["arms"]["recommended"]["objective"])
    return [f"For the recommendation it predicted {_prediction(results)}; validation measured {number(measured)}."]


def _prediction(results: Results) -> str:
    predicted = results["predicted"]
    said = f"{number(predicted['objective'])} {unit(results)}"
    if not predicted["interval"]:
        return said
    low, high = (number(x) for x in predicted["interval"])
    return f"{said} ({100 * predicted['level']:g} % interval {low} to {high})"


def _score_row(name: str, score: Mapping[str, Any], own: float | None, decimals: int) -> tuple[str, ...]:
    mae = f"{score['mae']:.{decimals}f}" if finite(score["mae"]) else MISSING
    ranks, r2 = (signed(score["spearman"], 3), signed(own, 3)), signed(score["r2"], 3)
    return name, *ranks, mae, r2, percent(score["coverage90"])


def _trajectories(results: Results) -> list[Block]:
    arms = results["trajectories"]
    if not arms:
        return ["No arms were trained side by side, so there is nothing to follow."]
    caption = "Objective of each arm, mean over seeds, against tokens seen."
    if len(arms) > 1 and any(arm["label"] == "prior" for arm in arms):
        caption += " The second picture shows the same as a distance from the prior: above zero is better."
    header = ("Tokens seen", *(f"{arm['label']}, {unit(results)}" for arm in arms))
    table = Table(header, _checkpoints(arms), "l" + "r" * len(arms))
    return [Chart("trajectories", caption), Fold("Checkpoints", table)]


def _checkpoints(arms: Sequence[Mapping[str, Any]], most: int = 8) -> list[tuple[str, ...]]:
    """The objective of each arm at some of the first arm's checkpoints, evenly apart, with the last."""
    paths = [dict(map(tuple, arm["points"])) for arm in arms]
    tokens = list(paths[0])[:: -max(1, -(-len(paths[0]) // most))][::-1]
    return [(scaled(t), *(number(path.get(t)) for path in paths)) for t in tokens]


def _swarm(results: Results) -> list[Block]:
    swarm, u, v = results["swarm"], unit(results), results["validation"]
    values = swarm["objective"]
    if len(values) < 2:
        return ["Fewer than two good runs: there is no distribution to show.", *_failed(swarm["failed"])]
    low, *_, high = quantiles(values, n=20, method="inclusive")
    said = (
        f"The {len(values)} good runs span {number(min(values))} to {number(max(values))} {u}; "
        f"the middle 90 % of them span {number(high - low, 3)}."
    )
    if same_scale(results) and finite(v["noise"]) and v["noise"] > 0:
        noise = f"Their standard deviation is {pstdev(values) / v['noise']:.1f} times that of seeds"
        said += f" {noise}, which is {number(v['noise'], 2)}."
    return [said, Chart("swarm", f"Objective of the swarm's runs, in {u}; lower is better."), *_failed(swarm["failed"])]


def _failed(failed: Sequence[Mapping[str, str]]) -> list[Block]:
    table = Table(("Run", "Error"), [(run["id"], run["error"]) for run in failed], "ll")
    return [Fold(plural(len(failed), "failed run"), table)] if failed else []


def _cost(results: Results) -> list[Block]:
    cost, proxy = results["cost"], results["proxy"]
    part = cost["share_of_target"]
    spent = [
        ("Proxies trained", f"{cost['proxies_trained']:,}"),
        ("Proxies reused, not trained again", f"{cost['proxies_reused']:,}"),
        ("Training tokens, reused runs too", scaled(cost["tokens"])),
        ("Compute, reused runs too", flops(cost["flops"])),
        ("Wall time of this search", duration(cost["seconds"])),
        ("Worker time, reused runs too", duration(cost["worker_seconds"])),
        ("Share of the target run's compute", share(part) if finite(part) else MISSING),
    ]
    shape = [
        ("Size", str(proxy["size"])),
        ("Non-embedding parameters", scaled(proxy["parameters"])),
        ("Tokens of a run", scaled(proxy["tokens"])),
        ("Tokens of a row", f"{proxy['sequence']:,}"),
        ("Rows of a step", f"{proxy['batch']:,}"),
        ("Learning rate", f"{proxy['learning_rate']:.3g}"),
        ("Proxies asked for", f"{proxy['count']:,}"),
    ]
    weights = [(metric, f"{weight:g}") for metric, weight in results["objective"]["weights"].items()]
    return [
        Table(("Spent", ""), spent, "lr"),
        Table(("Proxy", ""), shape, "lr"),
        *([tuple(proxy["derived"])] if proxy["derived"] else []),
        Fold("Objective: weighted mean of metrics", Table(("Metric", "Weight"), weights, "lr")),
    ]


def _limits(results: Results) -> list[Block]:
    v, proxy, target = results["validation"], results["proxy"], scaled(results["target"]["tokens"])
    carried = "was measured on full runs, above" if report_feedback.measured_gain(results) else "was not measured"
    scale = (
        f"Proxies of {scaled(proxy['parameters'])} parameters saw {scaled(proxy['tokens'])} tokens; the real run sees "
        f"{target}. Whether the ranking of mixtures carries over to that size {carried}."
    )
    said = [
        scale,
        f"Tokens, epochs and proportions are counted with this tokenizer: {results['provenance']['tokenizer']}.",
    ]
    if v and not same_scale(results):
        ran = f"at size {v['size']} for {scaled(v['tokens'])} tokens"
        said.append(f"Validation ran {ran}; beyond it nothing was checked.")
    if v:
        said.append(
            "The intervals cover seeds (initialisation and order of data), not the choice of held-out text, of the "
            "proxies' settings or of the scale."
        )
    if unit(results) in UNITS.values():
        said.append("The objective is loss on held-out text; downstream tasks were not measured.")
    return [(*said, *results["notes"])]


def _provenance(provenance: Mapping[str, Any]) -> list[Block]:
    words = {key: _plain(value) for key, value in provenance.items()}
    rows = [(key, said) for key, said in words.items() if "\n" not in said]
    folds = [Fold(key, said) for key, said in words.items() if "\n" in said]
    return [Table(("What", "Identity"), rows, "ll"), *folds]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) <= 6:
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return value.rstrip() if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
