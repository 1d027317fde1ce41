"""Sections of the report about cost: speed beside other networks, and what ran where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..tables.runs import Run
from . import layer_charts as charts
from .contents import NONE, Report, counted, missing
from .of_layers import commits_of
from .page import Html, joined, prose, table, tag

TEXTS = ("case", "phase", "precision", "mode", "rival", "device", "threads", "commit",
         "images_per_second")  # fmt: skip
FIGURES = ("ours_ms", "rival_ms", "ratio", "ratio_q1", "ratio_q3", "rounds")
HEADER = (
    "network", "phase", "precision", "mode", "rival", "ours, ms", "rival, ms", "ratio",
    "quartiles", "images/s, ours",
)  # fmt: skip


def speed(report: Report) -> None:
    parts = []
    for path in sorted((report.results / "benchmarks").glob("*.csv")):
        lines = report.lines(path, TEXTS, FIGURES)
        lines = [line for line in lines if min(line["ours_ms"], line["rival_ms"]) > 0]
        drawn = charts.of_one_kind(lines)
        panels = []
        for kind, name in (("network", "Networks"), ("block", "Blocks: layer, norm, ReLU")):
            own = [line for line in drawn if line["case"].startswith(f"{kind} ")]
            if own := [line for line in own if line["rival"].startswith("plain")]:
                most = max(own, key=lambda line: line["ratio"])
                alt = f"{name}: time over that of plain ones, at most {most['ratio']:.2f}, of "
                panels.append((charts.ratios(name, own), f"{alt}{most['case']}"))
        if fits := charts.exponents(drawn):
            alt = ", ".join(f"{name} {slope:.2f}" for name, (slope, _) in fits.items())
            panels.append((charts.scaling(fits), f"Time against channels; exponents: {alt}"))
        if panels:
            device = ", ".join(sorted({device_of(line) for line in lines}))
            rounds = sorted({int(line["rounds"]) for line in lines})
            precision, mode = drawn[0]["precision"], drawn[0]["mode"]
            mode = "replayed as CUDA graphs" if mode == "graphs" else mode
            caption = (
                f"On {device}, {precision}, {mode}, random images. Networks and blocks: our time "
                "over that of the ordinary network of the same arithmetic, below 1 where ours is "
                f"faster; median and quartiles over n = {rounds[0]} to {rounds[-1]} rounds in "
                "which both took turns. "
                f"Last panel: medians of single layers ({commits_of(lines)})."
            )
            place, title = f"benchmarks/{path.stem}", f"Time beside ordinary networks, {device}"
            parts.append(report.figure(place, title, panels, caption, (410, 340)))
            label = f"Time of whole networks on {device}"
            numeric = "|".join(HEADER[5:])
            networks = [line for line in lines if line["case"].startswith("network ")]
            parts.append(table(HEADER, map(timed, networks), label, numeric))
    if not parts:
        parts.append(missing("No speed was measured yet.", "`make benchmark`"))
    report.section("speed", "Speed", *parts)


def timed(line: dict) -> list[str]:
    return [
        line["case"].removeprefix("network "),
        *(line[name] for name in ("phase", "precision", "mode", "rival")),
        *(f"{line[name]:,.4g}" for name in ("ours_ms", "rival_ms")),
        f"{line['ratio']:.3f}",
        f"{line['ratio_q1']:.3f} to {line['ratio_q3']:.3f}",
        line["images_per_second"],
    ]


def device_of(line: dict | Run) -> str:
    count = line["threads"]
    threads = f", {count} thread{'s' * (str(count) != '1')}" if count else ""
    return (line["device"] or "unknown device") + threads


RUNS = ("device", "precision", "torch", "runs", "tables", "hours", "commits")
RUN = ("run", "row", "settings", "seed", "status", "error", "epochs", "hours", "device",
       "precision", "data", "started", "commit")  # fmt: skip
NOTE = (
    "Hours are those of the runs themselves, with their evaluations, summed. `*`: the tree had "
    "uncommitted changes, its commit does not describe the run fully. Runs tested on held-out "
    "training images, by which recipes were chosen, have tables of their own "
    "(`results/*/validation`) and are not counted here."
)


def places(report: Report) -> None:
    anchor, heading = "places", "What ran where, and for how long"
    every = [(one, run) for one in report.tables for run in one.runs]
    if not every:
        what = missing("Nothing ran yet.", "`make reproduce-mnistrot`, then `make compare`")
        report.section(anchor, heading, what)
        return
    kinds: dict[tuple[str, ...], list] = {}
    for one, run in every:
        key = device_of(run), run["precision"] or NONE, run["torch"] or NONE
        kinds.setdefault(key, []).append((one, run))
    rows = [[*key, *summed(own)] for key, own in sorted(kinds.items())]
    if len(rows) > 1:
        rows.append(["all", "", "", *summed(every)])
    listed = [
        [
            tag("code", run["run_id"]), run["experiment"], tag("code", run["overrides"] or NONE),
            run["seed"], run["status"],
            NONE if run["test_error"] is None else f"{run['test_error']:.3f}",
            NONE if run["epochs"] is None else run["epochs"], hours([run]), device_of(run),
            run["precision"] or NONE, run["data.provenance"] or NONE,
            (run["started"] or NONE)[:10], commits([run]),
        ]
        for _, run in every
    ]  # fmt: skip
    report.section(
        anchor,
        heading,
        table(RUNS, rows, "Runs by device, precision and torch", "hours"),
        tag(
            "details",
            tag("summary", f"Every run ({len(listed):,})"),
            table(RUN, listed, "Every run", "seed|error|epochs|hours"),
        ),
        prose(NOTE, "note"),
    )


def summed(own: Sequence[tuple]) -> list[object]:
    members = [run for _, run in own]
    statuses = counted(run["status"] for run in members)
    return [statuses, counted(one.title for one, _ in own), hours(members), commits(members)]


def hours(members: Iterable[Run]) -> str:
    return f"{sum(run['seconds'] or 0 for run in members) / 3600:,.2f}"


def commits(members: Iterable[Run]) -> Html:
    found = {
        commit[:10] + "*" * bool(run["dirty"])
        for run in members
        for commit in (run["commit"] or "unknown").split("+")
    }
    return joined((tag("code", commit) for commit in sorted(found)), ", ")
