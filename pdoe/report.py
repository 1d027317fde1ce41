"""The report: everything committed under experiments/ and results/ as one page, and its figures.

The page depends on those files alone and has no date of its own: the same files give the same
bytes. What is missing keeps its place, with a line that says which command makes it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from . import charts, markdown, measured, runs, tables
from .figures import render
from .measured import Details
from .page import Html, figure, frame, html, joined, prose, table, tag
from .runs import Run
from .tables import Line

NONE = "–"
GROUPS = ("p1", "p2", "p4", "p6", "p8", "p12", "p4m", "p8m")
SWEEP = {"experiment": "mnistrot_pdo_p8", "recipe": "mnistrot_fast", "group": "p8"}
MAKES = {  # what makes an input that is missing
    "runs": "`make reproduce-mnistrot` or `make reproduce-cifar`, then `make compare`",
    "details": "`make compare`, from the folders of new runs",
    "sweep": "`make sweep-groups`, then `make compare`",
    "equivariance": "`python scripts/equivariance.py`",
    "speed": "`make benchmark`",
}
SIGNS = {"reproduced": "=", "better": "▼", "worse": "▲", "not comparable": "≠", "not run": "○"}


@dataclass
class Table:
    """One published table, what ran of it, and the details of the runs by their names."""

    name: str
    lines: list[Line]
    runs: list[Run]
    details: dict[str, Details]
    problems: list[str]

    @property
    def rows(self) -> list[Line]:
        """The line of each published row that the row is judged by: the first one."""
        return list({line.paper.row: line for line in reversed(self.lines)}.values())[::-1]

    def seeds(self, line: Line) -> list[Details]:
        return [self.details[r["run_id"]] for r in line.finished if r["run_id"] in self.details]


@dataclass
class Report:
    """The sections in order, the figures as files, and what was damaged, one line each."""

    experiments: Path
    results: Path
    tables: list[Table] = field(default_factory=list)
    sections: list[tuple[str, str, Html]] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    numbered: int = 0

    def section(self, anchor: str, heading: str, *content: object) -> None:
        self.sections.append((anchor, heading, joined(content, "\n")))

    def figure(
        self, place: str, title: str, panels: Sequence[tuple[charts.Draw, str]], caption: str,
        size: tuple[int, int] = charts.SMALL, columns: int = 3,
    ) -> Html:  # fmt: skip
        """A numbered figure of (drawing, what it shows); ``place`` is table/name of its file."""
        self.numbered += 1
        folder, name = place.split("/")
        drawings = [draw for draw, _ in panels]
        file = render(drawings, *size, columns)
        self.files[self.results / folder / "figures" / f"{name}.svg"] = file
        single = len(panels) == 1
        shown = [(file if single else render([draw], *size), alt) for draw, alt in panels]
        kind = "small" if size[0] <= charts.SMALL[0] else "medium"
        return figure(self.numbered, title, shown, Html(prose(caption)[3:-4]), kind)

    def lines(self, path: Path, texts: Sequence[str], numbers: Sequence[str]) -> list[dict]:
        """A CSV file of results; what is damaged is noted."""
        found, problems = measured.read_lines(path, texts, numbers)
        self.problems += [f"{path.parent.name}/{problem}" for problem in problems]
        return found


def missing(what: str, command: str) -> Html:
    return prose(f"{what} {MAKES[command]} makes it.", "missing")


def read_table(folder: Path, results: Path) -> Table:
    """A folder of experiments/ with its runs; TableError where runs.csv cannot be used at all."""
    found = runs.read_csv(results / "runs.csv")
    details, problems = measured.read_details(results / "details")
    known = {run["run_id"] for run in found.runs}
    problems = [f"{folder.name}/details/{problem}" for problem in problems]
    for stray in sorted(details.keys() - known):
        problems.append(f"{folder.name}/details/{stray}.json: skipped: no such run in runs.csv")
    lines = [re.sub(r"^.*?runs\.csv", f"{folder.name}/runs.csv", p) for p in found.problems]
    paper = tables.read_paper(folder / "paper.csv")
    rows = {line.row for line in paper}
    if foreign := sorted({run["experiment"] for run in found.runs} - rows):
        problems.append(f"{folder.name}/runs.csv: in no row of the table: {', '.join(foreign)}")
    return Table(
        folder.name,
        tables.table_lines(paper, found.runs, "full"),
        list(found.runs),
        details,
        lines + problems,
    )


def write(experiments: Path, results: Path) -> tuple[str, dict[Path, str], list[str]]:
    """The page, the figures by the path of their file, and a line for everything damaged.

    Raises:
        TableError: a table or a runs.csv cannot be read without losing or guessing something.
    """
    report = Report(experiments, results)
    for path in sorted(experiments.glob("*/paper.csv"), key=order_of_tables):
        report.tables.append(read_table(path.parent, results / path.parent.name))
        report.problems += report.tables[-1].problems
    for part in (
        published, learning, groups, parameters, turned, angles, spacing, filters, confusion,
        speed, places,
    ):  # fmt: skip
        part(report)
    return frame("PDO-eConvs: runs beside the paper", report.sections, head(report)), (
        report.files
    ), report.problems  # fmt: skip


def order_of_tables(path: Path) -> tuple[bool, str]:
    return path.parent.name != "mnist_rot", path.parent.name


# ---- Words --------------------------------------------------------------------------------------


def counted(values: Iterable[str]) -> str:
    return ", ".join(f"{n} {value}" for value, n in sorted(Counter(values).items()))


def told(line: Line) -> tuple[str, str]:
    """What a panel is called: the system, and what tells its runs from others of its row."""
    choices = overrides(line)
    group = "" if "group" in choices else f", {line.paper.group}"
    shown = [f"{name.removeprefix('model.')}={value}" for name, value in choices.items()]
    if line.another:
        shown.append(f"configuration {line.another[:8]}")
    if line.provenance not in tables.PUBLISHED_DATA:
        shown.append(f"{line.provenance} data")
    return line.paper.method + group, wrapped(shown)


def wrapped(parts: Sequence[str], width: int = 44) -> str:
    """Parts side by side in lines of about that many characters; what is longer is cut."""
    lines: list[str] = []
    for part in parts:
        part = part if len(part) <= width else f"{part[: width - 1]}…"
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return "\n".join(lines[:3])


def overrides(line: Line) -> dict[str, str]:
    """The settings in which a line differs from its row, by name."""
    found = re.findall(r"([\w.@/+~]+)=(.*?)(?=,[\w.@/+~]+=|$)", line.overrides)
    return dict(found)


def counts_of(line: Line) -> str:
    return f"n = {len(line.finished)}, {line.provenance} data"


def data_sets(table: Table) -> list[str]:
    """The first word of a row's name is its data set; one table may hold several."""
    return list(dict.fromkeys(line.paper.row.split("_")[0] for line in table.lines))


# ---- Head and tables ----------------------------------------------------------------------------


def head(report: Report) -> Html:
    every = [run for one in report.tables for run in one.runs]
    rows = [line for one in report.tables for line in one.rows]
    verdicts = Counter(line.verdict.split(" (")[0] for line in rows)
    data = counted(run["data.provenance"] or "unknown" for run in every)
    hours = sum(run["seconds"] or 0 for run in every) / 3600
    figures = [
        (str(len(every)), f"runs logged ({counted(run['status'] for run in every) or 'none'})"),
        (f"{hours:.1f}", "hours of training, summed over the runs"),
        *((str(verdicts[word]), f"of {len(rows)} published rows: {word}") for word in SIGNS),
    ]
    counts = (tag("div", tag("dt", name), tag("dd", value)) for value, name in figures)
    return joined(
        [
            tag("h1", "PDO-eConvs: our runs beside the published tables"),
            prose(
                "An independent PyTorch implementation of partial differential operator based "
                "equivariant convolutions (Shen, He, Lin and Ma, ICML 2020). Every number on this "
                "page is computed from the logged runs; errors are test errors after the last "
                "epoch, in per cent.",
                "lead",
            ),
            tag("dl", joined(counts), class_="counts"),
            prose(f"Data of the runs: {data or 'none'}. {PROVENANCES}", "note"),
            *(prose(f"Left out, damaged: {problem.replace('`', chr(39))}", "problem")
              for problem in report.problems),
        ],
        "\n",
    )  # fmt: skip


PROVENANCES = (
    "`original`: the published files; `regenerated`: the published procedure on the MNIST digits, "
    "the same distribution but another draw; `embedded`: a small stand-in that is never compared."
)
COLUMNS = (
    "system", "group", "paper", "ours", "difference ± h", "verdict", "n", "spread",
    "parameters, paper", "ours ", "data",
)  # fmt: skip
NUMBERS = "paper|ours|difference ± h|n|parameters, paper|ours "


def published(report: Report) -> None:
    parts: list[Html] = []
    for one in report.tables:
        parts.append(tag("h3", one.name, id=f"table-{one.name}"))
        if not one.runs:
            parts.append(missing("No run of this table yet.", "runs"))
        rows = map(result, one.lines)
        parts.append(table(COLUMNS, rows, f"{one.name}: the paper's numbers and ours", NUMBERS))
    rule = markdown.RULE.replace("**Verdict.** ", "")
    paragraph, *items = re.split(r"\n- |\n\n- ", rule)
    rules = joined(tag("li", Html(prose(item)[3:-4])) for item in items)
    parts.append(
        tag("details", tag("summary", "How a verdict is reached"), prose(paragraph),
            tag("ul", rules))
    )  # fmt: skip
    note = "Indented: runs of the same row with other settings, at most shown, never averaged in. "
    note += "Spread: sample standard deviation over seeds, and the smallest and largest error. "
    note += "`*`: a run was made with uncommitted changes."
    parts.append(prose(note, "note"))
    report.section("tables", "The published tables and ours", *parts)


def result(line: Line) -> list[object]:
    """A row of the main table."""
    word, _, limits = line.verdict.partition(" (")
    verdict = joined(
        [
            tag("span", f"{SIGNS[word]} {word}", class_="verdict"),
            tag("small", limits.removesuffix(")")) if limits else "",
        ]
    )
    paper, counts = line.paper, sorted({run["parameters"] for run in line.finished} - {None})
    under = line.overrides or line.another
    name = tag("code", f"↳ {line.overrides or 'configuration ' + line.another[:8]}")
    cells: list[object] = [
        joined([paper.method, tag("small", tag("code", paper.row))]) if not under else name,
        "" if "group" in overrides(line) else paper.group,
        paper.error,
    ]
    if ours := line.ours:
        star = "*" if any(run["dirty"] for run in line.finished) else ""
        away = f"{ours.mean - float(paper.error):+.3f} ± {line.tolerance:.3f}"
        spread = NONE
        if ours.std is not None:
            spread = f"± {ours.std:.3f} ({ours.low:.3f} to {ours.high:.3f})"
        numbers = [f"{ours.mean:.3f}{star}", away if line.comparable else NONE, verdict]
        cells += [*numbers, str(ours.n), spread]
    else:
        cells += [NONE, NONE, verdict, NONE, NONE]
    cells += [
        NONE if paper.parameters is None else f"{paper.parameters:,}",
        ", ".join(f"{count:,}" for count in counts) or NONE,
        line.provenance or NONE,
    ]
    quiet = " quiet" if not line.ours else ""
    return [f".{'under' if under else 'row'}{quiet}", *cells]


# ---- Runs ---------------------------------------------------------------------------------------


def learning(report: Report) -> None:
    parts = []
    for one in report.tables:
        panels = []
        for line in one.lines:
            if seeds := one.seeds(line):
                draw = charts.learning(*told(line), seeds, float(line.paper.error))
                name = ", ".join(filter(None, told(line))).replace("\n", ", ")
                last = f"{line.ours.mean:.3f} % after the last epoch"
                panels.append((draw, f"{name}: error against epoch, {len(seeds)} seeds, {last}"))
        if panels:
            n = counted(f"n = {len(one.seeds(line))}" for line in one.lines if one.seeds(line))
            caption = (
                f"Error after each epoch, every seed a line of its own; rows of {one.name} "
                f"({data_of(one)} data; seeds per panel: {n}). Thin: on the training images, as "
                "seen with dropout and augmentation; marked: on the test images, where they were "
                "evaluated; dashed: the published error. Errors below 0.1 % stand on the edge."
            )
            place = f"{one.name}/learning-curves"
            parts.append(report.figure(place, f"Learning curves, {one.name}", panels, caption))
        else:
            parts.append(missing(f"{one.name}: no run with its epochs yet.", "details"))
    report.section("learning", "Learning curves", *parts)


def data_of(one: Table) -> str:
    lines = [line for line in one.lines if one.seeds(line)]
    return " and ".join(sorted({line.provenance for line in lines}))


def groups(report: Report) -> None:
    chosen: dict[str, Line] = {}
    left_out = 0
    for line in (line for one in report.tables for line in one.lines):
        settings = overrides(line)
        fits = line.paper.row == SWEEP["experiment"] and line.ours
        fits = fits and settings.get("recipe") == SWEEP["recipe"]
        if not fits or settings.keys() - {"recipe", "group", "model.widths"}:
            continue
        group = settings.get("group", SWEEP["group"])
        if line.another or group in chosen or group not in GROUPS:
            left_out += len(line.finished)
        else:
            chosen[group] = line
    if not chosen:
        content = missing("No finished run of the sweep over groups yet.", "sweep")
    else:
        seeds = {
            group: [(run["test_error"], run["parameters"]) for run in line.finished]
            for group, line in chosen.items()
        }
        data = ", ".join(sorted({line.provenance for line in chosen.values()}))
        caption = (
            f"Test error of the network of `{SWEEP['experiment']}` over other groups, all with the "
            f"recipe `{SWEEP['recipe']}` and the operators' offset of π/8: p1 and p4 are therefore "
            "not the ordinary CNN and the G-CNN of the table. Under each group the parameters of "
            f"its network. Points: seeds; bar: their mean (n = "
            f"{', '.join(f'{len(seeds[g])} for {g}' for g in GROUPS if g in seeds)}; {data} data)."
        )
        if left_out:
            caption += f" Left out: {left_out} runs of another configuration or other data."
        alt = "; ".join(f"{g}: {chosen[g].ours.mean:.3f} %" for g in GROUPS if g in chosen)
        panels = [(charts.by_group(GROUPS, seeds), f"Mean test error by group. {alt}")]
        content = report.figure(
            "mnist_rot/groups", "Error against group", panels, caption, charts.MEDIUM
        )
    report.section("groups", "Error against group", content)


def parameters(report: Report) -> None:
    parts = []
    for one in report.tables:
        panels = []
        for name in data_sets(one):
            rows = [line for line in one.lines if line.paper.row.startswith(f"{name}_")]
            points = list(filter(None, (of_paper(line) for line in rows if not line.another)))
            points = list({point.name: point for point in points}.values())
            ours = list(filter(None, map(of_runs, rows)))
            if any(point.parameters for point in points):
                alt = f"{name}: error and parameters of {len(points)} published systems and "
                alt += f"{len(ours)} of ours"
                panels.append((charts.against_parameters(name, [*points, *ours]), alt))
        n = counted(f"n = {line.ours.n}" for line in one.lines if of_runs(line))
        caption = (
            "Published systems (squares) and ours (discs; open: other settings than the row's, the "
            f"recipe say; runs with seeds: {n or 'none yet'}). Bars: 95 %, from the spread over "
            "seeds, where there are two, and the finite test set. Both axes are logarithmic."
        )
        if panels:
            place, title = f"{one.name}/parameters", f"Error against parameters, {one.name}"
            parts.append(report.figure(place, title, panels, caption, charts.MEDIUM, 2))
    report.section("parameters", "Error against parameters", *parts)


def of_paper(line: Line) -> charts.Point:
    method = line.paper.method.split(", ")[0]
    name = f"{method}, {line.paper.group.split(' (')[0]}"
    return charts.Point(name, float(line.paper.error), line.paper.parameters)


def of_runs(line: Line) -> charts.Point | None:
    """Our point of a line; none for other groups (they have a figure) and data not compared."""
    counts = {run["parameters"] for run in line.finished} - {None}
    usual = not line.another and line.provenance in tables.PUBLISHED_DATA
    settings = overrides(line)
    if not line.ours or not counts or not usual or "group" in settings:
        return None
    bar = float(np.hypot(line.ours.half_width or 0, line.sampling))
    more = "".join(f", {value}" for value in settings.values())
    name = f"ours: {of_paper(line).name}{more}"
    name = name if len(name) <= 44 else f"{name[:43]}…"
    return charts.Point(name, line.ours.mean, max(counts), True, bar, not settings)


def turned(report: Report) -> None:
    parts = []
    for one in report.tables:
        shown = [(line, [s.turned for s in one.seeds(line) if s.turned]) for line in one.lines]
        shown = [(line, seeds) for line, seeds in shown if seeds]
        if not shown:
            parts.append(missing(f"{one.name}: no run was tested on turned images yet.", "details"))
            continue
        top = 1.1 * max(error for _, seeds in shown for seed in seeds for error in seed.values())
        panels = [
            (
                charts.turned(*told(line), seeds, top or 1),
                f"{line.paper.method}: test error against an added turn, {len(seeds)} seeds, up to "
                f"{max(max(seed.values()) for seed in seeds):.3f} %",
            )
            for line, seeds in shown
        ]
        n = counted(f"n = {len(seeds)}" for _, seeds in shown)
        caption = (
            "Test error after training, with all test images turned by one more angle (seeds per "
            f"panel: {n}; {data_of(one)} data). Thick: mean over seeds. An invariant network would "
            "be a level line; turning the pixels itself costs a little between quarter turns."
        )
        place, title = f"{one.name}/turned", f"Error against an added turn, {one.name}"
        parts.append(report.figure(place, title, panels, caption))
    report.section("turned", "Error against an added turn", *parts)


def confusion(report: Report) -> None:
    parts = []
    for one in report.tables:
        panels, n = [], []
        with_one = [
            (line, [np.array(s.confusion) for s in one.seeds(line) if s.confusion])
            for line in one.lines
        ]
        simplest = sorted((p for p in with_one if p[1]), key=lambda p: len(overrides(p[0])))
        for line, matrices in {p[0].paper.row: p for p in reversed(simplest)}.values():
            matrices = [m for m in matrices if m.shape == matrices[0].shape]
            total = np.sum(matrices, axis=0)
            right = 100 * np.trace(total) / max(total.sum(), 1)
            draw = charts.confusion(*told(line), total)
            panels.append((draw, f"{line.paper.method}: confusion matrix, {right:.2f} % right"))
            n.append(counts_of(line))
        if panels:
            caption = (
                "Per cent of each true class (row) by predicted class; the shade counts errors "
                "alone, the diagonal is what was right. Test images of all seeds together, for "
                f"each row its runs with the fewest other settings ({'; '.join(n)})."
            )
            place, title = f"{one.name}/confusion", f"Confusion, {one.name}"
            size = (380, 380) if len(panels) == 1 else (340, 350)
            parts.append(report.figure(place, title, panels, caption, size))
        else:
            parts.append(missing(f"{one.name}: no run with a confusion matrix yet.", "details"))
    report.section("confusion", "Confusion matrix", *parts)


# ---- Layers -------------------------------------------------------------------------------------


def angles(report: Report) -> None:
    folder = report.results / "equivariance"
    lines = report.lines(folder / "angles.csv", ("network", "state", "commit"), ("angle", "error"))
    parts = []
    if lines:
        networks: dict[str, dict[str, list]] = {}
        for line in lines:
            states = networks.setdefault(line["network"], {})
            states.setdefault(line["state"], []).append((line["angle"], line["error"]))
        panels = [
            (
                charts.by_angle(name, states),
                f"{name}: equivariance error against the angle; "
                + "; ".join(f"{s}: up to {max(e for _, e in p):.2g}" for s, p in states.items()),
            )
            for name, states in networks.items()
        ]
        caption = (
            "Relative error of turning the input against turning the output, by angle, for "
            "networks as initialised and trained (one network each, n = 1; logarithmic; exact "
            f"zeros stand on the edge; {commits_of(lines)})."
        )
        place = "equivariance/angles"
        parts.append(report.figure(place, "Equivariance error against angle", panels, caption))
    else:
        parts.append(missing("No `results/equivariance/angles.csv` yet.", "equivariance"))
    lines = report.lines(
        folder / "layers.csv", ("network", "state", "layer", "reason", "commit"), ("error",)
    )
    if lines:
        rows = []
        for network, state in dict.fromkeys((line["network"], line["state"]) for line in lines):
            own = [x for x in lines if (x["network"], x["state"]) == (network, state)]
            breaks = next((line for line in own if line["reason"]), None)
            first = joined([tag("code", breaks["layer"]), f": {breaks['reason']}"]) if breaks else ""
            largest = f"{max(line['error'] for line in own):.1e}"
            rows.append([network, state, str(len(own)), largest, first or "none"])
        header = ("network", "state", "layers", "largest error", "first layer that loses it")
        parts.append(tag("h3", "Where a network loses it"))
        label = "The first layer of each network that loses equivariance"
        parts.append(table(header, rows, label, "layers|largest error"))
    else:
        parts.append(missing("No `results/equivariance/layers.csv` yet.", "equivariance"))
    report.section("equivariance", "Equivariance error against angle", *parts)


def commits_of(lines: Sequence[dict]) -> str:
    return "commit " + ", ".join(sorted({line["commit"][:10] or "unknown" for line in lines}))


def spacing(report: Report) -> None:
    path = report.results / "equivariance" / "order.csv"
    numbers = ("angle", "spacing", "error", "order")
    lines = report.lines(path, ("group", "layer", "commit"), numbers)
    lines = [line for line in lines if line["error"] > 0 and line["spacing"] > 0]
    series: dict[str, dict[str, tuple[float, list]]] = {}
    for line in lines:
        label = f"{line['layer']}, {line['angle']:g}°"
        own = series.setdefault(line["group"], {}).setdefault(label, (line["order"], []))
        own[1].append((line["spacing"], line["error"]))
    for own in series.values():  # a slope needs two spacings
        for label in [name for name, (_, points) in own.items() if len(dict(points)) < 2]:
            del own[label]
    panels = [
        (
            charts.by_spacing(group, own),
            f"{group}: error against grid spacing; "
            + "; ".join(f"{label}: order {order:.2f}" for label, (order, _) in own.items()),
        )
        for group, own in series.items()
        if own
    ]
    if panels:
        caption = (
            "Equivariance error of a layer under a turn that does not keep the grid, on a smooth "
            "image sampled ever finer; line: least squares fit, order: its slope (both axes "
            f"logarithmic; one layer with random weights each, n = 1; {commits_of(lines)})."
        )
        place, title = "equivariance/order", "Equivariance error against grid spacing"
        content = report.figure(place, title, panels, caption, charts.MEDIUM, 2)
    else:
        content = missing("No `results/equivariance/order.csv` yet.", "equivariance")
    report.section("order", "Equivariance error against grid spacing", content)


def filters(report: Report) -> None:
    names, n = ("u", "uu", "uuv"), 8
    caption = (
        "Differential operators of `pdoe.banks` as 5 × 5 stencils in the frame of each of the "
        "eight rotations of p8, offset π/8 (the angle of u above each; exact, nothing is learnt; "
        "float64). Orange positive, blue negative, background zero, each row to its own largest "
        "coefficient. Every second filter is the one before it turned by 90 degrees, pixel for "
        "pixel; those between are second-order approximations."
    )
    caption = caption.replace("Every second filter is the one before it", "The filter two places on is the same")  # fmt: skip # noqa: E501
    panels = [
        (
            charts.turned_filters(n, np.pi / 8, names),
            "Heat maps of the operators du, duu and duuv, turned through eight angles",
        )
    ]
    place, title = "equivariance/filters", "Operators turned through p8"
    content = report.figure(place, title, panels, caption, (520, 220))
    report.section("filters", "Filters turned through the group", content)


# ---- Cost ---------------------------------------------------------------------------------------

SPEED = (
    ("case", "phase", "precision", "mode", "rival", "device", "threads", "commit", "dirty",
     "ours_mib", "rival_mib", "images_per_second"),
    ("ours_ms", "rival_ms", "ratio", "ratio_q1", "ratio_q3", "rounds"),
)  # fmt: skip


def speed(report: Report) -> None:
    parts = []
    for path in sorted((report.results / "benchmarks").glob("*.csv")):
        lines = report.lines(path, *SPEED)
        plain = [line for line in lines if line["rival"].startswith("plain")]
        usual = [x for x in plain if (x["precision"], x["mode"]) == ("fp32", "eager")]
        panels = []
        for kind, name in (("network ", "Networks"), ("block ", "Blocks: layer, norm, ReLU")):
            if own := [line for line in usual if line["case"].startswith(kind)]:
                worst = max(own, key=lambda line: line["ratio"])
                alt = f"{name}: time, ours / plain; largest {worst['ratio']:.2f}: {worst['case']}"
                panels.append((charts.ratios(name, own), alt))
        if fits := measured.exponents(lines):
            alt = "; ".join(f"{name}: exponent {slope:.2f}" for name, (slope, _) in fits.items())
            panels.append((charts.scaling(fits), f"Time against planar channels; {alt}"))
        if not panels:
            continue
        where = ", ".join(sorted({device_of(line) for line in lines}))
        rounds = sorted({int(line["rounds"]) for line in usual}) or [0]
        caption = (
            f"Time on {where} (fp32, eager): ours over the ordinary network of the same "
            "arithmetic; median and quartiles of the ratios of "
            f"{rounds[0]} to {rounds[-1]} rounds in which both took turns (n = rounds; random "
            f"images; {commits_of(lines)}). Below 1 ours is faster."
        )
        place = f"benchmarks/{path.stem}"
        title = f"Time beside ordinary networks, {where}"
        parts.append(report.figure(place, title, panels, caption, (480, 340), 2))
        rows = [
            [
                line["case"].removeprefix("network "), line["phase"], line["precision"],
                line["mode"], line["rival"], f"{line['ours_ms']:,.4g}", f"{line['rival_ms']:,.4g}",
                f"{line['ratio']:.3f}", f"{line['ratio_q1']:.3f} to {line['ratio_q3']:.3f}",
                line["images_per_second"],
            ]
            for line in lines
            if line["case"].startswith("network ")
        ]  # fmt: skip
        header = (
            "network", "phase", "precision", "mode", "rival", "ours, ms", "rival, ms", "ratio",
            "quartiles", "images/s, ours",
        )  # fmt: skip
        numeric = "ours, ms|rival, ms|ratio|quartiles|images/s, ours"
        parts.append(table(header, rows, f"Time of whole networks on {where}", numeric))
    if not parts:
        parts.append(missing("No speed was measured yet.", "speed"))
    report.section("speed", "Speed", *parts)


def device_of(line: dict) -> str:
    threads = f", {line['threads']} threads" if line["threads"] else ""
    return line["device"] + threads


def places(report: Report) -> None:
    every = [(one.name, run) for one in report.tables for run in one.runs]
    if not every:
        report.section("places", "What ran where", missing("Nothing ran yet.", "runs"))
        return
    kinds: dict[tuple, list[tuple[str, Run]]] = {}
    for name, run in every:
        threads = f", {run['threads']} threads" if run["threads"] else ""
        key = (f"{run['device'] or 'unknown'}{threads}", run["precision"] or NONE,
               run["torch"] or NONE)  # fmt: skip
        kinds.setdefault(key, []).append((name, run))
    rows = [
        [*key, counted(run["status"] for _, run in own), counted(name for name, _ in own),
         hours(run for _, run in own), commits(run for _, run in own)]
        for key, own in sorted(kinds.items())
    ]  # fmt: skip
    if len(rows) > 1:
        whole = [run for _, run in every]
        rows.append(["all", "", "", counted(run["status"] for run in whole), "", hours(whole), ""])
    header = ("device", "precision", "torch", "runs", "tables", "hours", "commits")
    parts = [table(header, rows, "Runs by device and precision", "hours")]
    listed = [
        [
            tag("code", run["run_id"]), run["experiment"], run["overrides"] or "",
            str(run["seed"]), run["status"],
            NONE if run["test_error"] is None else f"{run['test_error']:.3f}",
            str(run["epochs"] or NONE), hours([run]), device_and(run), run["data.provenance"] or "",
            (run["started"] or "")[:10], commits([run]),
        ]
        for _, run in every
    ]  # fmt: skip
    header = ("run", "row", "settings", "seed", "status", "error", "epochs", "hours", "device",
              "data", "started", "commit")  # fmt: skip
    every_run = table(header, listed, "Every run", "seed|error|epochs|hours")
    parts.append(tag("details", tag("summary", f"All {len(listed)} runs"), every_run))
    note = (
        "Hours are those of the runs themselves, evaluation included, summed. `*`: the tree had "
        "uncommitted changes, so that the commit does not describe the run fully. Runs tested on "
        "held-out training images, by which recipes were chosen, stand in tables of their own "
        "(`results/*/validation`) and are not counted here."
    )
    parts.append(prose(note, "note"))
    report.section("places", "What ran where, and for how long", *parts)


def device_and(run: Run) -> str:
    return ", ".join(filter(None, (run["device"], run["precision"])))


def hours(members: Iterable[Run]) -> str:
    return f"{sum(run['seconds'] or 0 for run in members) / 3600:.2f}"


def commits(members: Iterable[Run]) -> Html:
    found = {
        commit[:10] + "*" * bool(run["dirty"])
        for run in members
        for commit in (run["commit"] or "unknown").split("+")
    }
    return joined((tag("code", commit) for commit in sorted(found)), ", ")
