"""What the report says of how sure the answer is; results without that part get none of these sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixopt.report_blocks import Block, Chart, Fold, Table
from mixopt.report_numbers import (
    MISSING,
    SHOWN,
    Results,
    finite,
    label,
    listed,
    number,
    percent,
    places,
    plural,
    shown_domains,
    shown_effects,
    signed,
    span,
    unit,
)
from mixopt.uncertainty import STEP, verdict

SOURCES = {
    "bootstrap": "fitted to swarms that were drawn again from the same runs",
    "posterior": "drawn from the posterior of the law",
    "transfer": "fitted to swarms that were drawn again and carried to the size of the full runs, which all this is about",
}
POINT = 0.01
TAKEN = (
    "All of this takes the shape of the law for granted: where the truth has another shape the intervals are too short, "
    "and a validation or a second law tells."
)


def sections(results: Results) -> dict[str, list[Block]]:
    """The sections there is something to say in."""
    found: dict[str, list[Block]] = {}
    if known := results.get("uncertainty"):
        found["How sure the answer is"] = _sure(results, known)
        if any(change for ways in known["effects"].values() for change in ways.values()):
            found["What if a domain moved"] = _what_if(results, known)
    if any((results.get("proposal") or {}).get(key) for key in ("floors", "cap_prices")):
        found["What the limits cost"] = _limits(results)
    return found


def bare_gain(results: Results) -> list[str]:
    """The gain over the prior by the law alone, in one sentence, where it is known."""
    known = results.get("uncertainty")
    return [verdict(known["gain"], unit(results)).replace("-", "−")] if known else []


def tile(results: Results) -> tuple[str, str, str] | None:
    """The predicted gain for the top of the page, where it is known."""
    if not (known := results.get("uncertainty")):
        return None
    gain = known["gain"]
    decimals = places(gain[key] for key in ("value", "low", "high"))
    ends = span(gain["low"], gain["high"], decimals)
    return "Predicted gain", signed(gain["value"], decimals), f"{_level(known)} {ends}"


def proportion_ends(results: Results) -> dict[str, str]:
    """The interval of each domain's proportion in words; nothing where there is none."""
    known = results.get("uncertainty")
    return {name: _range(ends) for name, ends in known["proportions"].items()} if known else {}


def _sure(results: Results, known: Mapping[str, Any]) -> list[Block]:
    region, u, gain = known["region"], unit(results), known["gain"]
    simplest = region["simplest"]
    decimals = places(gain[key] for key in ("value", "low", "high"))
    again = f"{known['draws']} laws that these runs leave plausible, {SOURCES[known['source']]}, each gave their answer"
    lacking = known["unanswered"]
    none = f"{lacking} more had no answer inside the limits. " if lacking else ""
    low, high = region["effective_domains"]
    alike = (
        f"Mixtures predicted to be worse by no more than that, {number(region['margin'], 2)} {u}, cannot be told from the "
        f"recommendation by these runs. The table has the range of each proportion that such mixtures were found to "
        f"reach; they are worth {low:.1f} to {high:.1f} equally used domains."
    )
    least = (
        f"The smallest change from the prior that is as good has a KL of {simplest['kl']:.3f} nats to it, the recommendation "
        f"{simplest['kl_recommended']:.3f}; it is predicted to gain {signed(simplest['gain']['value'], decimals)} "
        f"({_level(known)} {span(simplest['gain']['low'], simplest['gain']['high'], decimals)})."
    )
    lost = (
        f"If one of these laws is the truth, following the recommendation instead of that law's own answer costs "
        f"{number(known['regret']['mean'], 2)} {u} on average, and at most {number(known['regret']['quantile'], 2)} in "
        f"{100 * known['level']:g} % of cases."
    )
    return [
        f"{again}; intervals hold {100 * known['level']:g} % of them. {none}{bare_gain(results)[0]}",
        lost,
        f"{alike} {least}",
        _domains(results, known),
        f"{_noise(results, known)} {TAKEN}",
    ]


def _domains(results: Results, known: Mapping[str, Any]) -> Table:
    header = ("Domain", "Recommended", f"Answers of plausible laws, {_level(known)}", "As good, at least")
    rows = []
    for d in shown_domains(results):
        name, stopped = d["name"], known["caps"].get(d["name"])
        simplest = percent(known["region"]["simplest"]["mixture"][name])
        ranges = (_range(known["proportions"][name]), _range(known["region"]["ranges"][name]))
        rows.append((name, percent(d["recommended"]), *ranges, simplest, _chance(stopped)))
    return Table((*header, "Smallest change as good", "At its cap or bound"), rows, "lrrrrr")


def _noise(results: Results, known: Mapping[str, Any]) -> str:
    noise, v, u = known["noise"], results["validation"], unit(results)
    if noise["source"] == "replicates":
        how = f"measured on {plural(noise['runs'], 'run')} of repeated mixtures"
        return f"Runs of one mixture differ by a standard deviation of {number(noise['objective'], 2)} {u}, {how}."
    if v and finite(v["noise"]):
        how = f"measured on the {v['seeds']} seeds of the validation"
        return f"Runs of one mixture differ by a standard deviation of {number(v['noise'], 2)} {u}, {how}."
    return (
        f"No mixture was run twice. What the law leaves unexplained, noise and its own errors together, has a standard "
        f"deviation of {number(noise['objective'], 2)} {u}."
    )


def _what_if(results: Results, known: Mapping[str, Any]) -> list[Block]:
    u, step = unit(results), f"{100 * STEP:g} percentage points"
    moves = [(n, way, c) for n, ways in known["effects"].items() for way, c in ways.items() if c]
    helps = [f"{name} {way}" for name, way, change in moves if change["low"] > 0]
    hurts = sum(change["high"] < 0 for _, _, change in moves)
    said = (
        f"One domain moves by {step}, the others give or take in proportion. Of {plural(len(moves), 'move')} that the "
        f"bounds allow, {hurts or 'none'} cost something beyond the noise"
    )
    said += f" and {len(helps)} would gain: {listed(helps)}." if helps else " and none would gain."
    caption = (
        f"Change of the objective in {u} with {_level(known)}s; right is better. Triangles to the right: {step} more; "
        "to the left: less. Hollow marks are inside the noise."
    )
    shown = shown_effects(results)
    if len(shown) == SHOWN:
        caption += f" The {SHOWN} domains whose moves do most are drawn."
    return [
        said,
        Chart("effects", caption),
        Fold("All moves, and the held-out metrics they change most", _moves(known)),
    ]


def _moves(known: Mapping[str, Any]) -> Table:
    found = [(n, way, c) for n, ways in known["effects"].items() for way, c in ways.items() if c]
    decimals = places(c[key] for _, _, c in found for key in ("value", "low", "high"))
    rows = []
    for name, way, change in found:
        order = sorted(change["metrics"].items(), key=lambda item: item[1]["value"])
        (worst, loses), (best, wins) = order[0], order[-1]
        helped = f"{label(best)} {signed(wins['value'], decimals)}" if wins["value"] > 0 else MISSING
        hurt = f"{label(worst)} {signed(loses['value'], decimals)}" if loses["value"] < 0 else MISSING
        ends = span(change["low"], change["high"], decimals)
        rows.append((f"{name} {way}", signed(change["value"], decimals), ends, helped, hurt))
    header = ("Move", "Objective better by", _level(known), "Helps most", "Hurts most")
    return Table(header, rows, "lrrll")


def _limits(results: Results) -> list[Block]:
    u, found = unit(results), results.get("proposal") or {}
    blocks: list[Block] = []
    if floors := found.get("floors"):
        measured = {floor["metric"]: floor for floor in (results["validation"] or {}).get("floors", ())}
        rows = [_floor(f, measured.get(f["metric"])) for f in floors]
        changes = ("Allowed change", "Measured change", _validated(results), "Kept")
        tones = ["worse" if measured.get(f["metric"], {}).get("kept") == "no" else "" for f in floors]
        blocks += [
            Table(("Floor on", f"At most, {u}", "Predicted", *changes), rows, "lrrrrrl", tones),
            tuple(_price(f, u) for f in floors),
        ]
    if prices := [cap for cap in found.get("cap_prices") or () if finite(cap["price"]) and cap["price"] > 0]:
        blocks.append(tuple(_cap(cap, u) for cap in prices[:SHOWN]))
    return blocks or ["No cap holds the answer back."]


def _validated(results: Results) -> str:
    v = results["validation"]
    return f"{100 * v['level']:g} % interval" if v else "Interval"


def _floor(floor: Mapping[str, Any], measured: Mapping[str, Any] | None) -> tuple[str, ...]:
    said = (label(floor["metric"]), number(floor["limit"]), number(floor["predicted"]))
    if measured is None:
        return *said, MISSING, MISSING, MISSING, MISSING
    change = [f"{100 * measured[key]:+.2f}" for key in ("allowed", "mean", "low", "high")]
    return *said, f"{change[0]} %", f"{change[1]} %", f"{change[2]} to {change[3]} %", measured["kept"]


def _cap(cap: Mapping[str, Any], u: str) -> str:
    name, price = cap["name"], cap["price"]
    if cap["kind"] == "max_epochs" and finite(cap["per_epoch"]):
        return f"One more epoch of {name} would gain {number(cap['per_epoch'], 2)} {u}."
    gain = f"would gain {number(POINT * price, 2)} {u}."
    if cap["kind"] in ("upper", "lower"):
        return f"Moving the {cap['kind']} bound of {name} by one percentage point {gain}"
    what = f"target.trust.{name}" if cap["kind"] == "trust" else f"the limit of group {name}"
    return f"Moving {what} by {POINT:g} {gain}"


def _price(floor: Mapping[str, Any], u: str) -> str:
    name, price = label(floor["metric"]), floor["price"]
    if not finite(price):
        return f"What the floor on {name} costs is not known."
    if price <= 0:
        return f"The floor on {name} costs nothing."
    return f"Loosening the floor on {name} by {POINT:g} would gain {number(POINT * price, 2)} {u}."


def _chance(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.0f} %"


def _range(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def _level(known: Mapping[str, Any]) -> str:
    return f"{100 * known['level']:g} % interval"
