"""The report: its content, damaged input, and that a browser opens the page without errors."""

import copy
import csv
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdoe import report
from pdoe.report import figures
from pdoe.report.inputs import parse_details, read_details, read_lines
from pdoe.report.layers import frame_filters
from pdoe.report.learning import plot_confusion
from pdoe.tables import runs

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
COMMON = "recipe=mnistrot_common"
BENCHMARK = min((ROOT / "results" / "benchmarks").glob("cpu*.csv"))


def record(name, seed=0, error=2.0, overrides=COMMON, **fields):
    result = {
        "run_id": name, "experiment": "mnistrot_pdo_p8", "overrides": overrides, "seed": seed,
        "status": "finished", "test_error": error, "test_error_best": error,
        "parameters": 26747, "epochs": 40, "seconds": 1800.0, "seconds_per_epoch": 45.0,
        "device": "a CPU", "precision": "bf16", "threads": 2, "torch": "2.14.1",
        "commit": "0123456789abcdef", "dirty": False,
        "data": {"name": "mnist_rot", "provenance": "regenerated", "sha256": "5a"},
        "config_hash": overrides, "equivariance_error": {"trunk": 3e-07, "logits": 0.4},
        "started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T04:04:05+00:00",
    }  # fmt: skip
    return result | fields


def details(name, error=2.0, images=1000):
    return {
        "run_id": name,
        "metrics": {
            "epoch": [1, 2, 3, 4], "train_error": [50.0, 9.0, 3.0, 0.0],
            "test_error": [None, 7.0, None, error],
        },
        "diagnostics": {
            "confusion": (np.eye(10, dtype=int) * 490 + 1).tolist(), "turned_images": images,
            "turned": {str(angle): error + angle % 90 / 90 for angle in range(0, 360, 15)},
        },
    }  # fmt: skip


class Place:
    """A folder of results and the report about it."""

    def __init__(self, folder):
        self.results = folder

    def put(self, *records, table="mnist_rot", extra=""):
        content = runs.RunsFile(runs=tuple(map(runs.from_record, records)))
        return self.write(f"{table}/runs.csv", runs.format_runs_csv(content) + extra)

    def detail(self, *contents, table="mnist_rot"):
        for content in contents:
            self.write(f"{table}/details/{content['run_id']}.json", json.dumps(content))
        return self

    def lines(self, name, *lines):
        return self.write(name, "".join(",".join(map(str, line)) + "\n" for line in lines))

    def write(self, name, text):
        path = self.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return self

    def compose(self):
        return report.compose(EXPERIMENTS, self.results)

    def svg(self, name):
        table, _, figure = name.partition("/")
        return self.compose()[1][self.results / table / "figures" / f"{figure}.svg"]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of the text around the figures: to draw a figure takes a second."""
    empty = '<svg viewBox="0 0 9 9"></svg>'
    monkeypatch.setattr(report.contents, "render", lambda *given: empty)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report in which nothing is missing."""
    place = Place(tmp_path_factory.mktemp("results"))
    place.put(
        record("a0"), record("a1", 1, 2.2), record("b0", 0, 3.0, f"group=p4,{COMMON}"),
        record("c0", overrides="", dirty=True),
        record("d0", overrides="", status="failed", test_error=None, seed=1),
    ).detail(details("a0"), details("a1", 2.2), details("b0", 3.0))  # fmt: skip
    cifar = {"name": "cifar10", "provenance": "original", "sha256": "6b"}
    place.put(
        record("e0", 0, 9.0, "recipe=cifar_short", experiment="cifar10_pdo_p6_26", data=cifar),
        table="cifar",
    ).detail(details("e0", 9.0), table="cifar")
    angles = [("net", state, a, 1e-7 if a % 90 == 0 else 0.1, "beef") for a in range(0, 361, 15)
              for state in ("initialised", "trained")]  # fmt: skip
    header = ("network", "state", "angle", "error", "commit")
    place.lines("equivariance/angles.csv", header, *angles)
    orders = [("p8", "lifting", 45, h, 0.3 * h * h, 2.0, "beef") for h in (0.2, 0.1, 0.05)]
    header = ("group", "layer", "angle", "spacing", "error", "order", "commit")
    place.lines("equivariance/order.csv", header, *orders)
    place.write("benchmarks/cpu.csv", BENCHMARK.read_text("utf-8"))
    return place.compose()


class Elements(HTMLParser):
    """The elements of a page; fails if they are not nested properly."""

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


def test_the_script_writes_the_same_bytes_in_another_process_without_torch(place, tmp_path):
    place.put(record("a0")).detail(details("a0"))
    page, files, _ = place.compose()
    (tmp_path / "poison").mkdir()
    poison = "raise SystemExit('torch was imported')"
    (tmp_path / "poison" / "torch.py").write_text(poison, "utf-8")
    path = os.pathsep.join([str(tmp_path / "poison"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "report.py", "--results", place.results,
         "--page", tmp_path / "report.html"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text("utf-8") == page
    assert {path: path.read_text("utf-8") for path in files} == files


def test_nothing_that_is_committed_is_damaged_or_missing(undrawn):
    page, files, problems = report.compose(EXPERIMENTS, ROOT / "results")
    assert problems == [] and "To make it: " not in page
    assert all(path.exists() for path in files)  # the Markdown pages show them


def test_the_page_begins_with_the_figure_and_the_headline_table(full):
    page = full[0]
    head = page[: page.index("<nav")]
    assert 'id="figure-1"' in head and "published systems" in head
    table = head[head.index("<table") : head.index("</table>")]
    assert "2.100 ± 0.141 (2)" in table  # of a0 and a1, with the common recipe
    assert "2.000* (1)" in table and "+0.130" in table and "provisional" in table
    assert "group=p4" not in table and "mnistrot_z2" not in table


def test_every_published_row_run_and_figure_is_in_the_page(full):
    page, files, problems = full
    assert problems == []
    for path in EXPERIMENTS.glob("*/paper.csv"):
        for row in csv.DictReader(path.read_text("utf-8").splitlines()):
            assert f"<code>{row['row']}</code>" in page
    for name in ("a0", "a1", "b0", "c0", "d0", "e0"):
        assert f"<code>{name}</code>" in page
    assert Elements(page).count("figure") == len(files) == 14
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page, re.S)
    measured = [c for c in captions if "Filters" not in c and "stencils" not in c]
    assert len(measured) == 12 and all(re.search(r"n = \d", caption) for caption in measured)


def test_the_page_is_well_formed_and_loads_nothing(full):
    page, files, _ = full
    elements = Elements(page)
    for tag, attrs in elements.found:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "image")
        assert "src" not in attrs and not any(name.startswith("on") for name in attrs)
        assert tag != "use" or attrs["href"].startswith("#")
    assert "default-src 'none'" in html.unescape(page)
    for text in (page, *files.values()):
        assert not re.search(r"@import|url\((?!#)", text)
    ids = [attrs["id"] for _, attrs in elements.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_text_of_a_record_is_escaped(place):
    nasty = "<script>alert(1)</script> & $x_{$ ]]>"
    place.put(record("a<b>&", overrides=f"{COMMON},data.note={nasty}", device=nasty))
    page, files, _ = place.detail(details("a<b>&")).compose()
    elements = Elements(page)
    assert not elements.count("script") and not elements.count("b>&")
    text = "".join(elements.texts)
    assert nasty in text and "a<b>&" in text
    assert not any("<script" in svg for svg in files.values())


def test_without_results_every_section_says_which_command_makes_them(place, undrawn):
    page, files, problems = place.compose()
    Elements(page)
    assert problems == [] and {path.stem for path in files} == {
        "parameters", "filters", "stencils",
    }  # fmt: skip
    for command in ("make reproduce-mnistrot", "make reproduce-cifar", "make sweep-groups",
                    "python scripts/equivariance.py", "make benchmark"):  # fmt: skip
        assert f"To make it: <code>{command}" in page


# ---- What the figures show ----------------------------------------------------------------------


def test_a_first_look_of_a_few_epochs_is_in_no_figure_and_in_no_headline(place, undrawn):
    place.put(record("a0", 0, 2.5, ""), record("b0", 0, 9.9, COMMON, epochs=6))
    place.detail(details("a0", 2.5), details("b0", 9.9))
    page = place.compose()[0]
    assert "9.900" not in page[: page.index("<nav")]
    assert "9.900 (1)" in page  # it stays in the list of every line
    assert page.count("Learning curves, MNIST-rot: PDO-eConv") == 1


def test_a_rate_from_a_few_rotated_images_is_not_drawn(place, undrawn):
    place.put(record("a0", overrides=""), record("b0"))
    place.detail(details("a0", images=1000), details("b0", images=5))
    page = place.compose()[0]
    assert page.count("Error against an added rotation, MNIST-rot: PDO-eConv") == 1
    assert "on the first 1,000 test images" in page


def test_the_confusion_of_cifar_has_names_of_classes_and_that_of_digits_has_digits(full):
    files = {f"{path.parents[1].name}": svg for path, svg in full[1].items()
             if path.stem == "confusion"}  # fmt: skip
    assert ">airplane<" in files["cifar"] and ">truck<" in files["cifar"]
    assert ">9<" in files["mnist_rot"] and ">airplane<" not in files["mnist_rot"]


def test_the_classes_of_own_images_have_the_names_that_a_run_gives_them():
    confusion = {"confusion": [[3, 1], [0, 4]], "class_names": ["cat", "dog"]}
    columns = {"epoch": [1], "train_error": [50.0], "test_error": [12.5]}
    content = {"run_id": "a0", "metrics": columns, "diagnostics": confusion}
    assert parse_details(content).class_names == ("cat", "dog")
    for damaged in (["cat"], "cat", {"cat": 1}):
        with pytest.raises(ValueError, match="class_names is missing or damaged"):
            parse_details({**content, "diagnostics": {**confusion, "class_names": damaged}})
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes, line = figure.subplots(), SimpleNamespace(paper=SimpleNamespace(row="own"))
    plot_confusion(axes, line, [parse_details(content)], [])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]


def test_the_sweep_over_groups_shows_the_widest_network_within_the_parameters(place):
    widths = "group=p12,model.widths=[5,5],recipe=mnistrot_common"
    place.put(
        record("a0", 0, 2.0), record("a1", 1, 4.0),
        record("old", 0, 9.0, config_hash="old", started="2025-01-01T00:00:00+00:00"),
        record("b0", 0, 1.52, widths, parameters=26000),
        record("b1", 0, 9.92, f"group=p12,model.widths=[3,3],{COMMON}", parameters=5000),
        record("b2", 0, 1.22, f"group=p12,model.widths=[9,9],{COMMON}", parameters=40_000),
        record("c0", 0, 8.0, f"group=p4,{COMMON},recipe.epochs=90"),
        record("d0", 0, 7.0, "group=p6"),
        record("e0", 0, 6.0, f"group=p2,{COMMON}", status="failed"),
    )  # fmt: skip
    svg = place.svg("mnist_rot/groups")
    assert ">3.00<" in svg and ">1.52<" in svg and svg.count(">not run<") == 6
    for left_out in ("9.00", "9.92", "1.22", "8.00", "7.00", "6.00"):
        assert f">{left_out}<" not in svg


def test_the_figure_of_speed_keeps_to_one_precision_and_mode(place, undrawn):
    header, *lines = BENCHMARK.read_text("utf-8").splitlines()
    eager = [header, *(line for line in lines if ",fp32,eager," in line)]
    block = next(line for line in eager if '"block p8, 7' in line and ",fp32,eager,plain," in line)
    graphs = block.replace(",eager,", ",graphs,")
    for more, mode in (
        ([], "eager"),
        ([graphs.replace(",fp32,", ",bf16,")], "eager"),
        ([graphs], "replayed as CUDA graphs"),
    ):
        place.write("benchmarks/gpu.csv", "\n".join([*eager, *more, ""]))
        assert f"2 threads, fp32, {mode}, random images." in place.compose()[0]


def test_extreme_values_are_drawn(place):
    nothing = {"epoch": [], "train_error": [], "test_error": []}
    empty = details("b0") | {"metrics": nothing, "diagnostics": {"turned": {}, "confusion": None}}
    zero = details("a0", 0.0)
    zero["diagnostics"] = {"turned": {"0": 0}, "confusion": [[0, 0], [0, 0]]}
    place.put(
        record("a0", error=0.0, parameters=1), record("b0", error=100.0, overrides=""),
        record("c0", error=5.0, overrides="", experiment="mnistrot_p4", parameters=None),
    ).detail(zero, empty)  # fmt: skip
    header = ("group", "layer", "angle", "spacing", "error", "order", "commit")
    place.lines("equivariance/order.csv", header, *[("p8", "x", 1, 0.5, e, 2, "") for e in (0, 1)])
    page, files, problems = place.compose()
    assert problems == [] and Elements(page).count("figure") == len(files) == 8


def test_a_quarter_turn_of_a_filter_of_p8_is_exact_and_its_first_frame_is_sobels_filter():
    for name, kernels in frame_filters(8).items():
        rotated = np.rot90(kernels, 1, (-2, -1))
        np.testing.assert_allclose(np.roll(kernels, -2, axis=0), rotated, atol=1e-12)
        assert np.abs(np.roll(kernels, -1, axis=0) - rotated).max() > 0.1
        if name == "Sobel":
            sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
            np.testing.assert_allclose(kernels[0], np.pad(sobel, 1), atol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=25), st.floats(0.01, 0.2))
@settings(deadline=None)
def test_labels_keep_their_order_and_their_distance_and_stay_inside(heights, gap):
    heights = sorted(heights)
    places = figures.spread_labels(heights, gap)
    gap = min(gap, 1 / max(1, len(heights) - 1))
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    assert all(b - a >= gap - 1e-9 for a, b in zip(places, places[1:], strict=False))
    free = all(b - a > gap for a, b in zip(heights, heights[1:], strict=False))
    assert not free or places == pytest.approx(heights)


# ---- Damaged input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"run_id": "a0", "metr', "Unterminated string"),
        ("[]", "list indices"),
        (json.dumps(details("other")), "run_id is 'other', expected the file's name"),
        ("[" * 100_000, "recursion"),
        (json.dumps(details("a0") | {"metrics": {}}), "epoch is missing"),
        (json.dumps(details("a0")).replace("9.0", "NaN"), "train_error is missing or damaged"),
        (json.dumps(details("a0")).replace("[1, 2, 3, 4]", "[1, 2, 3]"), "different lengths"),
        (json.dumps(details("a0")).replace('"turned": {', '"turned": {"x": 1, '), "turned is"),
        (json.dumps(details("a0")).replace("491", '"many"'), "confusion is missing or damaged"),
    ],
)
def test_a_damaged_details_file_is_reported_and_left_out(place, undrawn, text, said):
    place.put(record("a0"), record("a1", 1)).detail(details("a1"))
    page, _, problems = place.write("mnist_rot/details/a0.json", text).compose()
    assert len(problems) == 1 and said in problems[0]
    assert problems[0].startswith("mnist_rot/details/a0.json: skipped: ")
    assert html.escape(problems[0]) in page and "n = 1 per panel" in page


def test_damaged_lines_are_reported(place, undrawn, tmp_path):
    place.put(record("a0"), extra="damaged,line\n")
    header = ("network", "state", "angle", "error", "commit")
    place.lines("equivariance/angles.csv", header, ("net", "trained", 0, "much", "beef"))
    page, _, problems = place.compose()
    assert [problem.partition(":")[0] for problem in problems] == [
        "mnist_rot/runs.csv", "equivariance/angles.csv",
    ]  # fmt: skip
    assert all(html.escape(problem) in page for problem in problems)
    (tmp_path / "bytes.csv").write_bytes(b"a,b\n\xff,1\n")
    lines, (problem,) = read_lines(tmp_path / "bytes.csv", ["a"], ["b"])
    assert lines == [] and problem.startswith("bytes.csv: skipped: ")
    assert read_lines(tmp_path / "no.csv", ["a"], ["b"]) == ([], [])
    assert read_details(tmp_path / "nowhere") == ({}, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
PATHS = [
    (), ("run_id",), ("metrics",), ("diagnostics",), ("metrics", "epoch"),
    ("metrics", "test_error"), ("metrics", "train_error", 0), ("diagnostics", "confusion"),
    ("diagnostics", "confusion", 0), ("diagnostics", "confusion", 0, 0),
    ("diagnostics", "turned"), ("diagnostics", "turned", "15"), ("diagnostics", "turned_images"),
]  # fmt: skip


@given(st.sampled_from(PATHS), JSON)
@settings(max_examples=150, deadline=None)
def test_any_content_of_a_details_file_is_used_or_refused(path, value):
    content = {"": details("a0")}
    inner = content
    for key in ("", *path)[:-1]:
        inner = inner[key]
    inner[("", *path)[-1]] = copy.deepcopy(value)
    try:
        found = parse_details(content[""])
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert len(found.epochs) == len(found.train) == len(found.test)
        assert all(0 <= error <= 100 for error in found.train)


# ---- The script ---------------------------------------------------------------------------------


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("script", ROOT / "scripts" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_cannot_be_used_is_refused_in_one_line(place, script, capsys, monkeypatch):
    page = place.results / "report.html"

    def refuse(folder):
        assert script.main(["--results", str(folder), "--page", str(page)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not page.exists()
        return error

    assert "nowhere is no folder" in refuse(place.results / "nowhere")
    place.put(record("a0"), record("a0", 1))
    assert "2 lines are named a0" in refuse(place.results)
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    assert "pip install '.[report]'" in refuse(place.results)


# ---- In a browser -------------------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<!doctype html><title>probe</title><script>
function look(frame) {
  const page = frame.contentDocument, edge = page.scrollingElement;
  const isShown = e => e.getBoundingClientRect().width > 30;
  page.querySelectorAll("details").forEach(e => { e.open = true; });
  const out = document.createElement("pre");
  const count = selector => [...page.querySelectorAll(selector)].filter(isShown).length;
  out.textContent = JSON.stringify({
    width: edge.clientWidth, content: edge.scrollWidth,
    tables: count("table"), figures: count("figure"), drawings: count("figure svg"),
  });
  document.body.append(out);
}
</script>
<body><iframe src="report.html" width="390" height="800" onload="look(this)"></iframe>
<iframe src="report.html" width="1280" height="800" onload="look(this)"></iframe></body>"""


def open_in_browser(folder, page):
    """Open a page at widths 390 and 1280: what it shows, and the lines of the console."""
    if not BROWSER:
        pytest.skip("no Chromium here: the page was not opened in a browser")
    (folder / "report.html").write_text(page, "utf-8")
    (folder / "probe.html").write_text(PROBE, "utf-8")
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}",
         "--enable-logging=stderr", "--virtual-time-budget=20000", "--timeout=60000", "--dump-dom",
         (folder / "probe.html").as_uri()],
        capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=300,
    )  # fmt: skip
    found = [json.loads(html.unescape(f)) for f in re.findall(r"<pre>(.*?)</pre>", done.stdout)]
    return found, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_a_browser_shows_every_table_and_figure_on_wide_and_narrow_screens(full, tmp_path):
    found, console = open_in_browser(tmp_path, full[0])
    elements = Elements(full[0])
    assert console == [] and len(found) == 2
    for screen in found:
        assert screen["content"] <= screen["width"], "the page scrolls sideways"
        assert screen["tables"] == elements.count("table")
        assert screen["figures"] == elements.count("figure")
        assert screen["drawings"] == elements.count("svg")
