"""What the report says of a full run, once `mixopt feedback` has compared it; results without one get no such section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixopt.report_blocks import Block, Table
from mixopt.report_numbers import MISSING, SHOWN, Results, finite, label, number, percent, places, scaled, signed, span


def sections(results: Results) -> dict[str, list[Block]]:
    """The section of the full run, where there was one."""
    if not (found := results.get("feedback")):
        return {}
    run = found["run"]
    model = f"{run['model']}, " if run["model"] else ""
    size = f"{model}{scaled(run['parameters'])} parameters, {scaled(run['tokens'])} tokens."
    blocks: list[Block] = [f"The full run: {size}", (*found["notes"], *found["says"])]
    if found["gains"]:
        blocks.append(_gains(found["gains"]))
    if found["step"]:
        blocks.append(_step(found["step"]["metrics"]))
    if found["next"]["mixture"]:
        blocks.append(_next(run["mixture"], found["next"]["mixture"]))
    return {"The full run": blocks}


def measured_gain(results: Results) -> bool:
    """Whether full runs of one scale on different mixtures were compared."""
    return bool((results.get("feedback") or {}).get("gains"))


def _gains(gains: Sequence[Mapping[str, Any]]) -> Table:
    decimals = places(gain["measured"] for gain in gains)
    header = ("Gain against", "Predicted", "90 % interval", "Proxies, validated", "Full runs", "Arrived")
    rows = []
    for gain in gains:
        (low, high), validated = gain["interval"] or (None, None), (gain["validated"] or {}).get("mean")
        kept = f"{100 * gain['kept']:.0f} %" if finite(gain["kept"]) and gain["predicted"] > 0 else MISSING
        told = (signed(gain["predicted"], decimals), span(low, high, decimals), signed(validated, decimals))
        rows.append((gain["against"], *told, signed(gain["measured"], decimals), kept))
    return Table(header, rows, "lrrrrr")


def _step(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    shown = sorted(metrics, key=lambda name: -abs(metrics[name]["beside_mean"]))[:SHOWN]
    decimals = places(row["change"] for row in metrics.values())
    rows = [
        (
            label(name),
            number(metrics[name]["predicted"]),
            number(metrics[name]["measured"]),
            *(signed(metrics[name][key], decimals) for key in ("change", "beside_mean")),
        )
        for name in shown
    ]
    return Table(("Held-out", "Predicted", "Full run", "Step", "Beside the mean step"), rows, "lrrrr")


def _next(trained: Mapping[str, float], following: Mapping[str, float]) -> Table:
    shown = sorted(following, key=lambda name: -abs(following[name] - trained[name]))[:SHOWN]
    rows = [(name, percent(trained[name]), percent(following[name])) for name in shown]
    return Table(("Domain", "This run", "Next search"), rows, "lrr")
