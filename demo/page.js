// The page: what the user chooses, and what the worker answers.
"use strict";

const { model, digits, origin } = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const LAYERS = 6;
const RANKS = ["strongest", ...["2nd", "3rd", "4th", "5th", "6th"].map((n) => `${n} strongest`)];
const SPEED = 30; // degrees a second
const FIRST = 8; // the digit at the start, or without digits this 2 of one stroke
// prettier-ignore
const SAMPLE = [[[30, 30], [36, 18], [50, 12], [64, 18], [68, 30], [62, 45], [45, 62], [30, 80],
  [28, 86], [45, 84], [72, 86]]].map((stroke) => stroke.map(([x, y]) => [x / 100, y / 100]));
const TITLES = {
  mnistrot_z2: ["Z2CNN", "each filter in 1 direction", "z2"],
  mnistrot_p4: ["P4CNN", "each filter in 4 directions", "p4"],
  mnistrot_pdo_p8: ["PDO-eConv", "each filter in 8 directions", "pdo"],
};

const state = {
  digit: null, // upright, of this version
  version: 0,
  labelled: true, // whether the class is given, or chosen by the networks
  chosen: 0, // the class of the curve
  points: [], // of the curve: points[step][network] are probabilities
  angle: 0, // degrees, counter-clockwise
  spinning: false,
  layer: 1, // from 0
  rank: 0, // of the channel
  back: false, // whether maps are turned back
  frame: null, // the last answer
  waiting: false, // for an answer
  wanted: false, // whether another frame is to be asked for
  times: [], // of the last frames
};

const cards = model.networks.map((network) => {
  const [title, kind, style] = TITLES[network.name];
  const error = network.error.toFixed(2);
  const facts = `${network.parameters.toLocaleString("en")} parameters · ${error} % test error`;
  return new Card(network, title, kind, facts, style);
});

const send = startWorker(model, receive, () => {
  send({ kind: "digit", version: state.version, digit: state.digit });
  state.waiting = false;
  wantFrame();
});

function receive(message) {
  if (message.kind === "frame") state.waiting = false;
  if (message.version === state.version) {
    if (message.kind === "frame") receiveFrame(message);
    else receivePoint(message);
  }
  askFrame();
}

function askFrame() {
  if (!state.wanted || state.waiting) return;
  [state.wanted, state.waiting] = [false, true];
  send({ kind: "frame", angle: state.angle, layer: state.layer });
}

function wantFrame() {
  state.wanted = true;
  askFrame();
}

function receiveFrame(frame) {
  state.frame = frame;
  showFrame();
  const now = performance.now();
  state.times = [...state.times, now].filter((time) => now - time < 2000);
  const rate = Math.round(state.times.length / 2);
  const kind = frame.vectors ? "WebAssembly" : "plain JavaScript";
  const took = `all three networks take ${frame.milliseconds.toFixed(0)} ms for an angle`;
  const frames = state.spinning ? `, ${rate} frames a second` : "";
  element("speed").textContent = `Computed in this page, in ${kind}: ${took}${frames}.`;
}

function receivePoint({ step, probabilities }) {
  state.points[step] = probabilities;
  if (step === 0 && !state.labelled) {
    const sums = probabilities[0].map((_, c) => probabilities.reduce((sum, p) => sum + p[c], 0));
    choose(indexOfMost(sums));
  }
  showCurves();
}

// --- what is shown ---

function showFrame() {
  const { frame } = state;
  if (!frame) return;
  drawDial(element("dial"), frame.image, frame.angle);
  const [small, side] = prepareCanvas(element("small")); // on narrow screens
  if (side) drawDigit(small, frame.image, cssColour(document.body, "--ink"), 0, 0, side);
  cards.forEach((card, n) => {
    card.drawMaps(frame.maps[n], state.rank, frame.angle, state.back);
  });
  // After all canvases, whose sizes and colours are read: the browser lays out once.
  cards.forEach((card, n) => {
    card.showProbabilities(frame.probabilities[n], frame.angle, state.chosen);
    card.describeMaps(frame.maps[n], state.rank);
  });
}

function showCurves() {
  cards.forEach((card, n) => {
    const curve = Array.from({ length: STEPS }, (_, k) => state.points[k]?.[n]);
    card.showCurve(curve, state.chosen);
  });
}

function showAll() {
  showFrame();
  showCurves();
  pad.draw();
  showDigits();
}

function choose(label) {
  state.chosen = label;
  element("class").value = label;
  showFrame();
  showCurves();
}

function turnTo(angle) {
  state.angle = ((angle % 360) + 360) % 360;
  element("angle").value = Math.round(state.angle);
  element("degrees").textContent = `${Math.round(state.angle)}°`;
  wantFrame();
}

function spin(spinning) {
  state.spinning = spinning;
  state.times = [];
  element("spin").textContent = spinning ? "Pause" : "Spin";
  element("spin").setAttribute("aria-pressed", spinning);
  if (!spinning) return;
  let last = performance.now();
  const advance = (now) => {
    if (!state.spinning) return;
    if (!state.waiting) {
      turnTo(state.angle + (SPEED * Math.min(now - last, 200)) / 1000);
      last = now;
    }
    requestAnimationFrame(advance);
  };
  requestAnimationFrame(advance);
}

// Take a digit; without a label the networks choose the class of the curve.
function takeDigit(digit, label = null) {
  state.version += 1;
  Object.assign(state, { digit, points: [], labelled: label !== null });
  send({ kind: "digit", version: state.version, digit });
  if (label !== null) choose(label);
  wantFrame();
}

// --- controls ---

function showDigits() {
  const ink = cssColour(document.body, "--ink");
  [...element("digits").children].forEach((button, i) => {
    paintMaps(button.firstChild, [digits[i].pixels], SIDE, 255, ink);
  });
}

function press(number) {
  [...element("digits").children].forEach((button, i) =>
    button.setAttribute("aria-pressed", i === number),
  );
}

digits.forEach((digit, number) => {
  digit.pixels = Uint8Array.from(atob(digit.pixels), (letter) => letter.charCodeAt(0));
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", `Digit ${digit.label}`);
  button.append(document.createElement("canvas"));
  button.addEventListener("click", () => {
    press(number);
    pad.clear();
    takeDigit(digit.pixels, digit.label);
  });
  element("digits").append(button);
});

const pad = new Pad(element("pad"), (strokes) => {
  press(-1);
  takeDigit(rasterise(strokes));
});

function fill(id, names, value, change) {
  names.forEach((name, i) => element(id).append(new Option(name, i)));
  element(id).value = value;
  element(id).addEventListener("change", () => change(Number(element(id).value)));
}

fill("class", [...Array(10).keys()], 0, (label) => {
  state.labelled = true;
  choose(label);
});
fill(
  "layer",
  Array.from({ length: LAYERS }, (_, i) => `${i + 1} of ${LAYERS}`),
  state.layer,
  (layer) => {
    state.layer = layer;
    wantFrame();
  },
);
fill("channel", RANKS, 0, (rank) => {
  state.rank = rank;
  showFrame();
});
element("back").addEventListener("change", (event) => {
  state.back = event.target.checked;
  showFrame();
});
element("spin").addEventListener("click", () => spin(!state.spinning));
element("angle").addEventListener("input", (event) => {
  spin(false);
  turnTo(Number(event.target.value));
});
element("clear").addEventListener("click", () => pad.clear());

onDrag(
  element("dial"),
  () => state.angle,
  (angle) => {
    spin(false);
    turnTo(angle);
  },
);

new ResizeObserver(showAll).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showAll);

element("origin").textContent = origin;
if (digits.length) {
  element("digits").children[digits.findIndex(({ label }) => label === FIRST)].click();
} else {
  document.querySelector(".source").classList.add("empty");
  takeDigit(rasterise(SAMPLE));
}
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) spin(true);
