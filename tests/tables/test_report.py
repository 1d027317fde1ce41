"""The report: what it shows, that it is whole and loads nothing, and how it looks in a browser."""

import copy
import csv
import html
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdoe import report
from pdoe.banks import operators
from pdoe.groups import rotation
from pdoe.report import figures
from pdoe.report.inputs import details_of, read_details, read_lines
from pdoe.tables import runs

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
COMMON = "recipe=mnistrot_common"
HEADINGS = (
    "The published tables and ours", "Learning curves", "Error against group",
    "Error against parameters", "Error against an added turn", "Equivariance error against angle",
    "Equivariance error against grid spacing", "Filters turned through the group",
    "Confusion matrix", "Speed", "What ran where, and for how long",
)  # fmt: skip


def record(name, seed=0, error=2.0, overrides=COMMON, **fields):
    result = {
        "run_id": name, "experiment": "mnistrot_pdo_p8", "overrides": overrides, "seed": seed,
        "status": "finished", "test_error": error, "test_error_best": error,
        "parameters": 26747, "epochs": 4, "seconds": 1800.0, "seconds_per_epoch": 450.0,
        "device": "a CPU", "precision": "bf16", "threads": 2, "torch": "2.14.1",
        "commit": "0123456789abcdef", "dirty": False,
        "data": {"name": "mnist_rot", "provenance": "regenerated", "sha256": "5a"},
        "config_hash": overrides, "equivariance_error": {"trunk": 3e-07, "logits": 0.4},
        "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T04:04:05+00:00",
    }  # fmt: skip
    return result | fields


def details(name, error=2.0):
    confusion = (np.eye(10, dtype=int) * 490 + 1).tolist()
    return {
        "run_id": name,
        "metrics": {
            "epoch": [1, 2, 3, 4], "train_loss": [2.0, 1.0, 0.5, 0.2],
            "train_error": [50.0, 9.0, 3.0, 0.0], "test_error": [None, 7.0, None, error],
            "learning_rate": [0.01] * 4, "seconds": [1.0] * 4,
        },
        "diagnostics": {
            "confusion": confusion, "layers": {"trunk.0": 1e-7}, "turned_images": 1000,
            "turned": {str(angle): error + angle % 90 / 90 for angle in range(0, 360, 15)},
        },
        "manifest": None,
    }  # fmt: skip


class Place:
    """A folder of results and the report of it."""

    def __init__(self, folder):
        self.results = folder

    def put(self, *records, extra=""):
        content = runs.RunsFile(runs=tuple(map(runs.from_record, records)))
        self.write("mnist_rot/runs.csv", runs.csv_text(content) + extra)
        return self

    def detail(self, name, content):
        return self.write(f"mnist_rot/details/{name}.json", json.dumps(content))

    def lines(self, name, *lines):
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
        return self.write(name, text)

    def write(self, name, text):
        path = self.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return self

    def compose(self):
        return report.compose(EXPERIMENTS, self.results)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def undrawn(monkeypatch):
    """For what is written around the figures: drawing them takes a second each."""
    empty = '<svg viewBox="0 0 9 9"></svg>'
    monkeypatch.setattr(report.contents, "render", lambda *given: empty)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Results in which nothing is missing."""
    place = Place(tmp_path_factory.mktemp("results"))
    names = {"a0": (0, 2.0, COMMON), "a1": (1, 2.2, COMMON), "b0": (0, 3.0, f"group=p4,{COMMON}")}
    place.put(
        *(record(name, *values) for name, values in names.items()),
        record("c0", error=2.1, overrides="", dirty=True),
        record("d0", overrides="", status="failed", test_error=None, seed=1),
    )
    for name in ("a0", "a1", "b0"):
        place.detail(name, details(name, names[name][1]))
    angles = [("net", state, a, 1e-7 if a % 90 == 0 else 0.1, "beef") for a in range(0, 361, 15)
              for state in ("initialised", "trained")]  # fmt: skip
    place.lines(
        "equivariance/angles.csv", ("network", "state", "angle", "error", "commit"), *angles
    )
    orders = [("p8", "lifting", 45, h, 0.3 * h * h, 2.0, "beef") for h in (0.2, 0.1, 0.05)]
    header = ("group", "layer", "angle", "spacing", "error", "order", "commit")
    place.lines("equivariance/order.csv", header, *orders)
    header = ("network", "state", "layer", "error", "reason", "commit")
    layers = [
        ("net", "trained", "stem", 0, "", "beef"),
        ("net", "trained", "b4", 0.1, "why", "beef"),
    ]
    place.lines("equivariance/layers.csv", header, *layers)
    (place.results / "benchmarks").mkdir()
    shutil.copy(
        min((ROOT / "results" / "benchmarks").glob("cpu*.csv")), place.results / "benchmarks"
    )
    return place.results, *place.compose()


class Elements(HTMLParser):
    """The elements of a page; fails where one is closed that is not the last one open."""

    VOID = {"meta", "br", "hr", "img", "link", "input", "wbr"}

    def __init__(self, page):
        super().__init__()
        self.open, self.found, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.found)


# ---- The page -----------------------------------------------------------------------------------


def test_committed_results_give_the_same_bytes_without_torch_in_another_process(tmp_path):
    for name in ("results", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page, files, problems = report.compose(tmp_path / "experiments", tmp_path / "results")
    assert problems == []
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "torch.py").write_text("raise SystemExit('torch was imported')")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", "--results", tmp_path / "results"],
        env={**os.environ, "PYTHONPATH": str(poison), "PYTHONHASHSEED": "7"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "report.html").read_text("utf-8") == page
    assert {path: path.read_text("utf-8") for path in files} == files


def test_every_published_row_run_and_figure_is_in_the_page(full):
    _, page, files, problems = full
    assert problems == []
    for path in EXPERIMENTS.glob("*/paper.csv"):
        for row in csv.DictReader(path.open(encoding="utf-8")):
            assert f"<code>{row['row']}</code>" in page
    for name in ("a0", "a1", "b0", "c0", "d0"):
        assert f"<code>{name}</code>" in page
    found = Elements(page)
    captions = [f"Figure {n}. " for n in range(1, 11)]
    assert all(page.count(f"<b>{caption}") == 1 for caption in captions)
    assert found.count("figure") == len(captions) == len(files)
    headings = re.findall(r"<h2><a [^>]*>(.*?)</a></h2>", page)
    assert headings == list(HEADINGS)
    drawings = [attrs for tag, attrs in found.found if tag == "svg"]
    assert len(drawings) >= 12 and all(len(d["aria-label"]) > 20 for d in drawings)


def test_every_caption_says_n_and_what_it_was_measured_on(full):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", full[1], re.S)
    assert len(captions) == 10
    for caption in captions:
        assert re.search(r"n = \d|none yet", caption), caption
        assert re.search(r"regenerated data|random image|n = 1|none yet", caption), caption


def test_the_caption_of_the_turns_says_how_many_images_were_turned(full):
    assert "on the first 1,000 test images, each turned once more" in full[1]


def test_what_the_head_counts_is_what_the_tables_say(full):
    page = full[1]
    counts = dict(re.findall(r"<dt>of \d+ rows (.*?)</dt><dd>(\d+)</dd>", page))
    rows = re.findall(r'<tr class="row.*?class="verdict">. (.*?)</span>', page)
    assert len(rows) == 31 and sum(map(int, counts.values())) == 31
    assert counts == {word: str(rows.count(word)) for word in counts}
    assert "<dt>runs: 1 failed, 4 finished</dt><dd>5</dd>" in page
    assert "<dd>2.5</dd>" in page  # five times 1,800 s
    assert "0123456789*" in page  # the run with uncommitted changes


def test_the_page_is_whole_and_its_ids_are_its_own(full):
    found = Elements(full[1])
    ids = [attrs["id"] for _, attrs in found.found if "id" in attrs]
    assert len(ids) == len(set(ids)) > 50
    targets = re.findall(r'(?:href="|url\()#([^")]+)', full[1])
    assert set(targets) <= set(ids) and any(target.startswith("f1-2-") for target in targets)


def test_the_page_loads_nothing(full):
    _, page, files, _ = full
    for tag, attrs in Elements(page).found:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "image")
        assert "src" not in attrs and not any(name.startswith("on") for name in attrs)
        assert tag != "use" or attrs["href"].startswith("#")
    assert not re.search(r"@import|url\((?!#)|http-equiv=.refresh", page)
    assert "default-src 'none'" in html.unescape(page)
    for svg in files.values():
        assert not re.search(r"@import|url\((?!#)|href=\"(?!#)|<image", svg)


def test_colours_follow_the_page_and_a_file_has_its_own_background(full):
    _, page, files, _ = full
    body = page[page.index("<body>") :]
    assert not re.findall(r"#[0-9a-f]{6}\b", body)
    assert "var(--accent)" in body and "--accent: #" in page
    for svg in files.values():
        assert f"fill: {figures.LIGHT['surface']}" in svg and "var(" not in svg


@pytest.mark.parametrize("which", [0, 1])
def test_text_is_legible_on_light_and_on_dark(which):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    behind = luminance(figures.PALETTE["surface"][which])
    for name in set(figures.PALETTE) - {"surface", "faint"}:
        light, dark = sorted((luminance(figures.PALETTE[name][which]), behind), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


# ---- What goes into it --------------------------------------------------------------------------


def test_text_of_a_record_is_shown_and_never_run(place):
    nasty = "<script>alert(1)</script> & $x_{$ ]]>"
    page, files, _ = (
        place.put(record("a<b>&", overrides=f"{COMMON},data.note={nasty}", device=nasty))
        .detail("a<b>&", details("a<b>&"))
        .compose()
    )
    found = Elements(page)
    assert not found.count("script") and not found.count("b>&")
    text = "".join(found.texts)
    assert nasty in text and "a<b>&" in text
    learning = files[place.results / "mnist_rot" / "figures" / "learning-curves.svg"]
    assert "<script" not in learning and "&lt;script" in learning


def test_rows_with_several_seeds_are_held_against_each_other(place, undrawn):
    assert "differences between rows" not in place.compose()[0]
    errors = {"a": (2.0, 2.2), "b": (3.0, 3.4)}
    place.put(
        *(record(f"a{s}", s, e, COMMON) for s, e in enumerate(errors["a"])),
        *(record(f"b{s}", s, e, f"group=p4,{COMMON}") for s, e in enumerate(errors["b"])),
    )
    page = place.compose()[0]
    assert "MNIST-rot: differences between rows" in page
    half = 12.7062 * 0.1  # t(1) times the standard error of -1.0 and -1.2
    assert f"+1.100 ± {half:.3f} (n = 2)" in page


def test_the_figure_of_speed_keeps_to_one_precision_and_mode(place, undrawn):
    measured = min((ROOT / "results" / "benchmarks").glob("cpu*.csv"))
    header, *lines = measured.read_text().splitlines()
    eager = [header, *(line for line in lines if ",fp32,eager," in line), ""]
    (place.results / "benchmarks").mkdir()
    copy = place.results / "benchmarks" / "gpu.csv"
    copy.write_text("\n".join(eager))
    assert "2 threads, fp32, eager, random images." in place.compose()[0]
    block = next(line for line in eager if '"block p8, 7' in line and ",fp32,eager,plain," in line)
    graphs = block.replace(",eager,", ",graphs,")
    copy.write_text("\n".join(eager + [graphs.replace(",fp32,", ",bf16,"), ""]))
    assert "2 threads, fp32, eager, random images." in place.compose()[0]
    copy.write_text("\n".join(eager + [graphs, ""]))
    assert "2 threads, fp32, replayed as CUDA graphs, random images." in place.compose()[0]


def test_without_any_result_every_section_stays_and_says_what_makes_it(place, undrawn):
    page, files, problems = place.compose()
    Elements(page)
    assert re.findall(r"<h2><a [^>]*>(.*?)</a></h2>", page) == list(HEADINGS)
    assert problems == [] and {path.stem for path in files} == {"parameters", "filters"}
    assert "<dt>of 31 rows not run</dt><dd>31</dd>" in page and "<dt>runs: none</dt>" in page
    for command in ("make reproduce-mnistrot", "make reproduce-cifar", "make sweep-groups",
                    "python scripts/equivariance.py", "make benchmark"):  # fmt: skip
        assert f"To make it: <code>{command}" in page


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"run_id": "a0", "metr', "Unterminated string"),
        ("[]", "holds a list, expected an object"),
        (json.dumps(details("other")), "run_id is 'other', expected the file's name"),
        ("[" * 100_000, "recursion"),
        (json.dumps(details("a0") | {"metrics": {}}), "epoch is missing, expected a list"),
        (json.dumps(details("a0")).replace("9.0", "NaN"), "train_error holds nan"),
        (json.dumps(details("a0")).replace("[1, 2, 3, 4]", "[1, 2, 3]"), "3, 4 and 4 values"),
        (json.dumps(details("a0")).replace('"turned": {', '"turned": {"x": 1, '), "turned is"),
        (json.dumps(details("a0")).replace("491", '"491"'), "confusion holds '491'"),
    ],
)
def test_a_damaged_details_file_is_named_in_a_line_and_left_out(place, undrawn, text, said):
    place.put(record("a0"), record("a1", 1)).detail("a1", details("a1"))
    page, _, problems = place.write("mnist_rot/details/a0.json", text).compose()
    assert len(problems) == 1 and said in problems[0]
    assert problems[0].startswith("mnist_rot/details/a0.json: skipped: ")
    assert html.escape(problems[0]) in page and "n = 1 per panel" in page


def test_details_without_a_run_and_damaged_lines_are_named(place, undrawn):
    place.put(record("a0"), extra="damaged,line\n").detail("zz", details("zz"))
    header = ("network", "state", "angle", "error", "commit")
    place.lines("equivariance/angles.csv", header, ("net", "trained", 0, "much", "beef"))
    page, _, problems = place.compose()
    assert [problem.partition(":")[0] for problem in problems] == [
        "mnist_rot/runs.csv",
        "mnist_rot/details/zz.json",
        "equivariance/angles.csv",
    ]
    assert all(html.escape(problem) in page for problem in problems)
    assert "<code>results/equivariance/angles.csv</code> yet" in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PATHS = [
    (), ("run_id",), ("metrics",), ("diagnostics",), ("metrics", "epoch"),
    ("metrics", "test_error"), ("metrics", "train_error", 0), ("diagnostics", "confusion"),
    ("diagnostics", "confusion", 0), ("diagnostics", "confusion", 0, 0),
    ("diagnostics", "turned"), ("diagnostics", "turned", "15"),
]  # fmt: skip


@given(st.sampled_from(PATHS), JSON)
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_a_details_file_is_used_or_refused(path, value):
    content = {"": details("a0")}
    inner = content
    for key in ("", *path)[:-1]:
        inner = inner[key]
    inner[("", *path)[-1]] = copy.deepcopy(value)
    try:
        found = details_of(content[""])
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert len(found.epochs) == len(found.train) == len(found.test)
        assert all(0 <= error <= 100 for error in found.train)


def test_the_sweep_over_groups_takes_its_own_runs_and_counts_those_left_out(place):
    widths = "group=p12,model.widths=[5,5],recipe=mnistrot_common"
    place.put(
        record("a0", 0, 2.0),
        record("a1", 1, 4.0),
        record("old", 0, 9.0, config_hash="old", started="2025-01-01T00:00:00+00:00"),
        record("b0", 0, 1.5, widths, parameters=26000),
        record("c0", 0, 8.0, f"group=p4,{COMMON},recipe.epochs=9"),
        record("d0", 0, 7.0, "group=p6"),
        record("e0", 0, 6.0, f"group=p2,{COMMON}", status="failed"),
    )
    page, files, _ = place.compose()
    assert "Mean test error by group: p8 3.000 %, p12 1.500 %" in html.unescape(page)
    assert "Left out: 1 runs of another configuration" in page
    svg = files[place.results / "mnist_rot" / "figures" / "groups.svg"]
    assert "26,747" in svg and "26,000" in svg and svg.count(">not run<") == 6


def test_extremes_are_drawn_not_stumbled_over(place):
    nothing = {"epoch": [], "train_error": [], "test_error": []}
    empty = details("b0") | {"metrics": nothing, "diagnostics": {"turned": {}, "confusion": None}}
    zero = details("a0", 0.0)
    zero["diagnostics"] = {"turned": {"0": 0}, "confusion": [[0, 0], [0, 0]]}
    place.put(
        record("a0", error=0.0, parameters=1), record("b0", error=100.0, overrides=""),
        record("c0", error=5.0, overrides="", experiment="mnistrot_p4", parameters=None),
    ).detail("a0", zero).detail("b0", empty)  # fmt: skip
    angles = [("net", "trained", 0, 0.0, ""), ("one", "trained", 7, -1, "")]
    place.lines(
        "equivariance/angles.csv", ("network", "state", "angle", "error", "commit"), *angles
    )
    header = ("group", "layer", "angle", "spacing", "error", "order", "commit")
    place.lines("equivariance/order.csv", header, *[("p8", "x", 1, 0.5, e, 2, "") for e in (0, 1)])
    page, files, problems = place.compose()
    assert problems == [] and Elements(page).count("figure") == len(files) == 8
    assert "<code>results/equivariance/order.csv</code> yet" in page


def test_the_sweep_has_the_widest_network_of_each_group_and_no_narrower_one(place, undrawn):
    place.put(
        record("a0", 0, 1.88, COMMON),
        record("b0", 0, 9.9, f"model.widths=[3,3],{COMMON}", parameters=5000),
        record("c0", 0, 1.2, f"model.widths=[9,9],{COMMON}", parameters=40_000),
    )
    page = place.compose()[0]
    assert "Mean test error by group: p8 1.880 %" in page
    assert "Left out: 2 runs of another configuration" in page


def test_a_first_look_has_no_point_among_the_errors_against_parameters(place, undrawn):
    short = "recipe.test_images=10000,recipe=mnistrot_common_short"
    place.put(record("a0", 0, 2.5, ""), record("b0", 0, 9.9, short), record("c0", 0, 1.9, COMMON))
    assert "published systems and 2 of ours" in place.compose()[0]


def test_a_folder_that_is_not_there_is_refused_and_not_made(place, script, capsys):
    assert script.main(["--results", str(place.results / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert not (place.results / "nowhere").exists()


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_results_file_that_cannot_be_read_is_refused_in_one_line(place, script, capsys):
    place.put(record("a0"), record("a0", 1))
    assert script.main(["--results", str(place.results)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "2 lines are named a0" in said
    assert not (place.results / "report.html").exists()


def test_without_matplotlib_the_command_says_what_to_install(place, script, capsys, monkeypatch):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    assert script.main(["--results", str(place.results)]) == 2
    assert "pip install '.[report]'" in capsys.readouterr().err


def test_lines_of_a_missing_file_are_none_and_those_of_no_csv_are_named(tmp_path):
    assert read_lines(tmp_path / "no.csv", ["a"], ["b"]) == ([], [])
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff,1\n")
    lines, (problem,) = read_lines(tmp_path / "bytes.csv", ["a"], ["b"])
    assert lines == [] and problem.startswith("bytes.csv: skipped: ")
    assert read_details(tmp_path / "nowhere") == ({}, [])


# ---- Figures ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.01, 0.2))
@settings(deadline=None)
def test_labels_keep_their_order_and_their_distance_and_stay_inside(heights, gap):
    heights = sorted(heights)
    places = figures.spread(heights, gap)
    gap = min(gap, 1 / max(1, len(heights) - 1))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(b - a >= gap - 1e-9 for a, b in zip(places, places[1:], strict=False))
    free = all(b - a > gap for a, b in zip(heights, heights[1:], strict=False))
    assert not free or places == pytest.approx(heights)


def test_two_places_on_an_operator_of_p8_is_turned_by_a_quarter_exactly():
    """What the caption of the turned filters says."""
    frames = np.array([rotation(math.pi / 8 + r * math.pi / 4) for r in range(8)])
    bank = operators(frames)
    turned = np.rot90(bank, 1, (-2, -1))
    np.testing.assert_allclose(np.roll(bank, -2, axis=0), turned, atol=1e-12)
    assert np.abs(np.roll(bank, -1, axis=0) - turned).max() > 0.1


# ---- In a browser -------------------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<!doctype html><title>probe</title><script>
function look(frame) {
  const page = frame.contentDocument, edge = page.scrollingElement;
  const seen = e => e.getBoundingClientRect().width > 30 && e.getBoundingClientRect().height > 20;
  page.querySelectorAll("details").forEach(e => { e.open = true; });
  const out = document.createElement("pre");
  out.textContent = JSON.stringify({
    width: edge.clientWidth, content: edge.scrollWidth,
    tables: [...page.querySelectorAll("table")].filter(seen).length,
    figures: [...page.querySelectorAll("figure")].filter(seen).length,
    drawings: [...page.querySelectorAll("figure svg")].filter(seen).length,
    inside: [...page.querySelectorAll("figure svg, p, h1, h2, figcaption, .scroll, dl, nav")]
      .every(e => e.getBoundingClientRect().right <= edge.clientWidth + 0.5),
  });
  document.body.append(out);
}
</script>
<body><iframe src="report.html" width="390" height="800" onload="look(this)"></iframe>
<iframe src="report.html" width="1280" height="800" onload="look(this)"></iframe></body>"""


def opened(folder, page):
    """What a browser finds in a page at 390 and at 1280 pixels, and what its console said."""
    if not BROWSER:
        pytest.skip("no Chromium here: the page was not opened in a browser")
    (folder / "report.html").write_text(page, "utf-8")
    (folder / "probe.html").write_text(PROBE, "utf-8")
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
         "--enable-logging=stderr", "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom",
         (folder / "probe.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = [json.loads(html.unescape(f)) for f in re.findall(r"<pre>(.*?)</pre>", done.stdout)]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {f["width"]: f for f in found}, console


def test_a_browser_shows_every_table_and_figure_and_a_phone_does_not_scroll_sideways(
    full, tmp_path
):
    _, page, _, _ = full
    found, console = opened(tmp_path, page)
    assert console == []
    elements = Elements(page)
    assert sorted(found) == [375, 1265] or sorted(found) == [390, 1280], "beside the scroll bar"
    for width, one in found.items():
        assert one["content"] <= width and one["inside"]
        assert one["tables"] == elements.count("table") >= 6
        assert one["figures"] == elements.count("figure") == 10
        drawings = sum(tag == "svg" for tag, _ in elements.found)
        assert one["drawings"] == drawings


def test_the_browser_would_see_a_wide_element_and_a_blocked_load(place, undrawn, tmp_path):
    page, _, _ = place.compose()
    wide = '<div style="width: 600px; height: 9px"></div><img src="https://localhost/x.png">'
    found, console = opened(tmp_path, page.replace("<nav", f"{wide}<nav", 1))
    narrow = found[min(found)]
    assert narrow["content"] > narrow["width"]
    assert any("Content Security Policy" in line for line in console)
