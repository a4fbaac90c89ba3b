"""What a command shows to people: tables and sentences. The only home of rich's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mixopt import uncertainty
from mixopt.report_comparison import board, sentences

MOST_PASTED = 3  # backends whose lines are shown; of more, their README.md
MOST_LISTED = 4  # names in a cell or a sentence


class Terminal:
    """Writes to standard output, or to standard error where standard output belongs to a machine."""

    def __init__(self, *, to_stderr: bool = False) -> None:
        self._console = Console(stderr=to_stderr, highlight=False)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows of text under a header; columns of numbers stand right."""
        table = Table(box=None, header_style="bold", pad_edge=False)
        for i, name in enumerate(header):
            numeric = bool(rows) and all(_is_number(row[i]) for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_plain(cell) for cell in row))
        self._console.print(table)

    def lines(self, lines: Sequence[str]) -> None:
        """One sentence a line."""
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)

    def error(self, message: str) -> None:
        """What went wrong, and what to do."""
        self._console.print(f"error: {message}", markup=False, soft_wrap=True, style="red")

    def results(self, results: Mapping[str, Any], directory: Path) -> None:
        """A finished search: the mixture, the verdict, where to read on."""
        title, ends = _intervals(results.get("uncertainty"))
        rows = [
            [
                row["name"],
                f"{row['prior']:.4f}",
                f"{row['recommended']:.4f}",
                *ends.get(row["name"], ()),
                f"{row['epochs']:.2f}",
                f"{row['upper']:.4f}",
            ]
            for row in results["domains"]
        ]
        self.table(["domain", "prior", "recommended", *title, "epochs", "most allowed"], rows)
        cost, validation = results["cost"], results["validation"]
        alone = "Not validated (validate.seeds is 0): this is a law's word only."
        if known := results.get("uncertainty"):
            alone = f"{alone} {uncertainty.verdict(known['gain'], 'of the objective')}"
        made = f"{cost['proxies_trained']} runs trained, {cost['proxies_reused']} found in the store, {cost['seconds']:.0f} s."
        self.lines([validation["verdict"] if validation else alone, made, f"Report: {directory / 'report.html'}"])

    def comparison(self, command: str, address: str, chosen: str) -> None:
        """How to compare this search with others in MLflow."""
        start = f"run `{command}`, " if command else ""
        tail = f" and filter by {chosen}" if chosen else ""
        self.lines([f"Compare in MLflow: {start}open {address}{tail}"])

    def leaderboard(self, document: Mapping[str, Any], directory: Path) -> None:
        """A finished comparison: both readings, best first, then what they mean."""
        shown = board(document)
        self.table(shown.header, shown.rows)
        made = f"{document['runs_trained']} runs trained, {document['runs_reused']} found in the store, {document['seconds']:.0f} s."
        where = f"Report: {directory / 'report.html'}"
        self.lines([*sentences(document["rows"]), *document["verdict"].values(), *document["notes"], made, where])

    def comparison_plan(self, found: Mapping[str, Any]) -> None:
        """A dry run of a comparison."""
        rows = [
            [row["method"], f"{row['search_tokens']:,}", *(f"{tokens:,}" for tokens in row["final_tokens"])]
            for row in found["methods"]
        ]
        self.table(["method", "search tokens, at most", "same final run", "same total, at least"], rows)
        self.lines([f"# {reason}" for reason in found["reasons"]])
        seeds = len(found["seeds"])
        self.lines(
            [
                f"{seeds} seeds for each final run: at most about {_duration(found['seconds'])}, shared runs counted twice."
            ]
        )

    def plan(self, found: Mapping[str, Any]) -> None:
        """A dry run: the resolved job and its cost."""
        from mixopt.yaml_text import dump_yaml

        self.lines([dump_yaml(found["job"]).rstrip(), *(f"# {reason}" for reason in found["reasons"])])
        runs = f"{found['proxies']} proxies and {found['validation_runs']} validation runs on {len(found['domains'])} domains"
        speed = f"{found['tokens_per_second']:,.0f} tokens/s for each worker"
        self.lines(
            [
                f"{runs}: {found['tokens']:,} tokens, {found['flops']:.3g} FLOPs,",
                f"about {_duration(found['seconds'])} at {speed} ({found['note']}).",
            ]
        )

    def exports(self, found: Mapping[str, Any], folder: Path) -> None:
        """What was exported to this folder, how far from the plan, who refused and why; what to paste if it is little."""
        shown = [
            [
                name,
                found["unit"][name],
                f"{far:.2g}",
                _listed(found["absent"][name]),
                "{} {:.3g}".format(*max(found["epochs"][name].items(), key=itemgetter(1))),
                Path(found["files"][name][0]).name,
            ]
            for name, far in found["max_deviation"].items()
        ]
        left = "pooled" if found["tail"] == "pool" else "left out"
        self.table(["backend", "shares of", "deviation", left, "most epochs", "file"], shown)
        if found["refused"]:
            self.lines([""])
            self.table(["refused by", "why"], [[name, why] for name, why in found["refused"].items()])
        if found["zero"]:
            self.lines([f"Left out everywhere, proportion 0: {_listed(found['zero'])}."])
        where = f"Each in its folder in {folder}, with a README.md: what to paste, what to know, epochs by domain."
        self.lines([*found["notes"], where])
        if len(found["files"]) > MOST_PASTED:
            return
        for name, lines in found["lines"].items():
            self.lines(["", f"{name}:", *lines])

    def fit(self, found: Mapping[str, Any]) -> None:
        """How well a law fits, target by target, beside the own-proportion baseline."""
        summary = {"mean of all": found["mean"], "mean loss": found["mean_loss"]} if len(found["targets"]) > 1 else {}
        named = {**found["targets"], **summary}
        own = found["own_proportion"]
        columns = {"Spearman": "spearman", "MAE": "mae", "R2": "r2", "coverage of 90 %": "coverage90"}
        if all(fit["coverage90"] is None for fit in named.values()):
            del columns["coverage of 90 %"]
        rows = [
            [name, *(_number(fit[key]) for key in columns.values()), _number(own.get(name))]
            for name, fit in named.items()
        ]
        self.table(["target", *columns, "own proportion's Spearman"], rows)
        self.lines(
            [f"{found['law']} on {found['runs']} runs in {found['fit_seconds']:.2f} s, measured {found['measured']}."]
        )
        self.lines(found["notes"])

    def proposal(self, found: Mapping[str, Any]) -> None:
        """A proposed mixture with its prediction."""
        known = found["uncertainty"]
        title, ends = _intervals(known)
        rows = [
            [name, f"{w:.4f}", *ends.get(name, ()), f"{found['epochs'][name]:.2f}"]
            for name, w in found["mixture"].items()
        ]
        self.table(["domain", "proportion", *title, "epochs"], rows)
        for floor in found["floors"]:
            price = "" if floor["price"] is None else f", price {_number(floor['price'])} per unit of the limit"
            limit = f"at most {_number(floor['limit'])}, predicted {_number(floor['predicted'])}"
            self.lines([f"floor on {floor['metric']}: {limit}{price}"])
        for cap in found["cap_prices"]:
            self.lines([f"{cap['kind']} of {cap['name']} binds, price {_number(cap['price'])} per unit"])
        self.prediction(found)
        self.lines([uncertainty.verdict(known["gain"], "of the objective")] if known else [])

    def prediction(self, found: Mapping[str, Any]) -> None:
        """A law's values at one mixture."""
        predicted = found["predicted"]
        self.table(["metric", "predicted"], [[name, _number(value)] for name, value in predicted["metrics"].items()])
        if predicted["interval"]:
            sure = "90 % interval {:.4f} to {:.4f}".format(*predicted["interval"])
        else:
            sure = "no interval: too few runs to leave some out"
        self.lines([f"objective {_number(predicted['objective'])}, {sure}"])
        if "prior" in predicted:
            self.lines([f"the prior is predicted at {_number(predicted['prior'])}"])
        self.lines([f"nearest run: {found['distance_to_nearest_run']:.3f} away (sum of absolute differences)"])
        self.lines(found["notes"])

    def swarm_plan(self, found: Mapping[str, Any]) -> None:
        """How an interval narrows with runs: measured on subsets, forecast beyond; what it means comes last."""
        rows = [[str(row["runs"]), "measured", _number(row["half_width"]), "-", "-"] for row in found["measured"]]
        for row in [*found["half_width"], {"runs": "any number of", **found["floor"]}]:
            rows.append([str(row["runs"]), "forecast", *(_number(row[key]) for key in ("middle", "low", "high"))])
        self.table(["runs", "", f"half-width ({found['of']})", "from", "to"], rows)
        alone = "-" if found["noise"] is None else f"+-{found['noise']:.4f}"
        noise = f"noise of a run alone: {alone}" + ("" if found["noise"] else " (no replicates)")
        self.lines([f"{found['law']} on {found['runs']} runs; {noise}", *found["notes"], found["verdict"]])

    def ranks(self, found: Mapping[str, Any]) -> None:
        """How two settings of the proxies rank the same mixtures, beside two seeds of one; what it means comes last."""
        compared = {"with the other": found["agreement"], "with another seed": found["noise"]}
        columns = {name: body for name, body in compared.items() if body}
        domains = next(iter(columns.values()))["metrics"]
        rows = [["objective", *(_number(body["spearman"]) for body in columns.values())]]
        rows += [[key, *(_number(body["metrics"][key]) for body in columns.values())] for key in domains]
        rows += [
            [what, *(_number(body[key]) for body in columns.values())]
            for what, key in (("least of the domains", "metrics_min"), ("median of the domains", "metrics_median"))
        ]
        self.table(["Spearman's rank correlation", *columns], rows)
        rows = [["pairs in the same order", *(_number(body["pairwise"]) for body in columns.values())]]
        for k in columns[next(iter(columns))]["regret"]:
            what = "its best mixture" if k == "1" else f"the best of its first {k}"
            rows.append([f"{what}: BPB above the best", *(_number(body["regret"][k]) for body in columns.values())])
        rows.append(["worst mixture: BPB above the best", *(_number(body["spread"]) for body in columns.values())])
        self.table(["the job's proxies", *columns], rows)
        self.lines([_setting("the job's", found["own"])])
        self.lines([_setting("the other", found["other"])] if found["other"] else [])
        left = f" ({found['left_out']} left out: a run diverged)" if found["left_out"] else ""
        self.lines([f"{found['mixtures']} mixtures{left}; {_made(found)}", *found["notes"], found["verdict"]])

    def audit(self, found: Mapping[str, Any]) -> None:
        """How true the laws of policies are: method by method, then of the two kinds of law on these data."""
        titles = ["method", *(f"sim at {100 * at:.0f} %" for at in found["points"]), "sim(A, A*)"]
        rows = [
            [
                row["method"],
                *(_number(value) for value in (*row["fidelity_at"], row["fidelity"], row["dynamic_r2"])),
                "-" if row["gain_over_uniform"] is None else f"{row['gain_over_uniform']:+.4f}",
            ]
            for row in found["methods"]
        ]
        self.table([*titles, "R2 of A* p", "gain over uniform"], rows)
        self.lines([f"{row['method']}: {row['why']}." for row in found["methods"] if row["why"]])
        static, dynamic = found["static"], found["dynamic"]
        fit = f"R2 {_number(static['r2'])} out of fold, {_number(static['r2_in_sample'])} in sample, {static['runs']} runs."
        self.lines(
            [
                f"Static log-linear law: {static['why'] or fit}",
                f"Linear dynamic law: R2 {_number(dynamic['r2'])} over {dynamic['segments']} segments after the probes.",
                f"Probes trained {found['probe_tokens']:,} tokens. {_made(found)}",
                *found["notes"],
            ]
        )

    def feedback(self, found: Mapping[str, Any]) -> None:
        """A full run against its prediction: metric by metric, gains over other mixtures, the next mixture, what it means."""
        metrics = (found["step"] or {}).get("metrics", {})
        rows = [
            [
                metric,
                _number(row["predicted"]),
                _number(row["measured"]),
                *(f"{row[k]:+.4f}" for k in ("change", "beside_mean")),
            ]
            for metric, row in metrics.items()
        ]
        if rows:
            self.table(["metric", "predicted", "full run", "step", "beside the mean step"], rows)
        rows = [
            [gain["against"], *("-" if gain[key] is None else f"{gain[key]:+.4f}" for key in ("predicted", "measured"))]
            for gain in found["gains"]
        ]
        if rows:
            self.table(["gain against", "predicted", "full runs"], rows)
        if following := found["next"]["mixture"]:
            trained = found["run"]["mixture"]
            self.table(
                ["domain", "this run", "next"], [[n, f"{trained[n]:.4f}", f"{w:.4f}"] for n, w in following.items()]
            )
        self.lines([*found["notes"], *found["says"]])

    def tuned(self, found: Mapping[str, Any]) -> None:
        """A sweep of the learning rate: every rate, then the one that was chosen."""
        seeds = [f"seed {seed}" for seed in found["seeds"]]
        rows = [
            [f"{row['learning_rate']:.3g}", *(_loss(loss) for loss in row["losses"]), _loss(row["mean"])]
            for row in found["rates"]
        ]
        self.table(["learning rate", *seeds, "objective"], rows)
        kept = f"{found['reason']}; without it {found['derived_learning_rate']:.3g} would be derived."
        self.lines([_made(found), f"Kept in {found['file']}", *found["notes"], kept])


def _intervals(known: Mapping[str, Any] | None) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The header and the cells of proportions' intervals; nothing where they are not known."""
    if not known:
        return [], {}
    ends: dict[str, tuple[str, ...]]
    ends = {name: (f"{low:.4f} to {high:.4f}",) for name, (low, high) in known["proportions"].items()}
    return [f"{100 * known['level']:g} % interval"], ends


def _setting(whose: str, side: Mapping[str, Any]) -> str:
    numbers = f"batch {side['batch']}, learning rate {side['learning_rate']:.3g}, vocabulary {side['vocabulary']:,}"
    return f"{whose} proxies: {side['size']}, {side['tokens']:,} tokens, {numbers}"


def _made(found: Mapping[str, Any]) -> str:
    trained, reused = found["proxies_trained"], found["proxies_reused"]
    return f"{trained} runs trained, {reused} found in the store, {found['seconds']:.0f} s."


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _is_number(cell: str) -> bool:
    return cell.lstrip("+-").replace(".", "", 1).isdigit() or cell == "-"


def _plain(cell: str) -> str:
    return cell.replace("[", r"\[")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
