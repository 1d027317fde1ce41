// What runs beside the page, in a worker: the frame that the page asks for, and in the time between
// the probabilities at all angles.
"use strict";

const STEPS = 120; // of the curve: every 3 degrees

// First every 90 degrees, then 45, 15, and what lies between, so that a curve shows early.
function listSteps() {
  const steps = new Set();
  for (const stride of [30, 15, 5]) for (let k = 0; k < STEPS; k += stride) steps.add(k);
  for (const start of [2, 4, 1, 3]) for (let k = start; k < STEPS; k += 5) steps.add(k);
  return [...steps];
}

// Takes messages {kind: "start" | "digit" | "frame"} and gives {kind: "frame" | "point"} to `post`.
function startService(post) {
  let networks,
    digit,
    version,
    frame = null,
    steps = [],
    upright = null,
    due = false;

  const classifyAll = (angle) => {
    const image = rotateDigit(digit, (angle * Math.PI) / 180);
    return [image, networks.map((network) => network.classify(image))];
  };

  function answerFrame({ angle, layer }) {
    if (!upright || upright.layer !== layer) {
      classifyAll(0);
      upright = { layer, maps: networks.map((network) => describeMaps(network.readLayer(layer))) };
    }
    const start = performance.now();
    const [image, probabilities] = classifyAll(angle);
    const milliseconds = performance.now() - start;
    const maps = networks.map((network, n) => {
      const layerMaps = network.readLayer(layer),
        { ranking, peaks, middle } = upright.maps[n];
      const change = measureChange(takeMiddle(layerMaps), middle, layerMaps.side, angle);
      return { ...layerMaps, ranking, peaks, change };
    });
    const { vectors } = networks[0];
    post({ kind: "frame", version, angle, image, probabilities, maps, milliseconds, vectors });
  }

  function work() {
    due = false;
    if (frame) {
      const asked = frame;
      frame = null;
      answerFrame(asked);
    } else if (steps.length) {
      const step = steps.shift(),
        [, probabilities] = classifyAll((step * 360) / STEPS);
      post({ kind: "point", version, step, probabilities });
    }
    wake();
  }

  function wake() {
    if (!due && (frame || steps.length)) {
      due = true;
      setTimeout(work, 0); // messages come in between
    }
  }

  return (message) => {
    if (message.kind === "start") {
      networks = buildNetworks(message.model);
    } else if (message.kind === "digit") {
      ({ digit, version } = message);
      [steps, upright] = [listSteps(), null];
    } else {
      frame = message;
    }
    wake();
  };
}

// The maximum over the orientations: [channel][row][column].
function takeMiddle({ order, side, values }) {
  const area = side * side;
  const middle = new Float32Array(values.length / order);
  for (let i = 0; i < middle.length; i++) {
    const first = Math.floor(i / area) * order * area + (i % area);
    for (let g = 0; g < order; g++) middle[i] = Math.max(middle[i], values[first + g * area]);
  }
  return middle;
}

// The middle maps, the largest value of each channel, and the channels from strong to weak.
function describeMaps(maps) {
  const middle = takeMiddle(maps);
  const area = maps.side ** 2;
  const channels = middle.length / area;
  const rows = Array.from({ length: channels }, (_, c) =>
    middle.subarray(c * area, (c + 1) * area),
  );
  const contrast = rows.map((row) => {
    const mean = row.reduce((sum, value) => sum + value, 0) / area;
    return row.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  });
  const ranking = [...rows.keys()].sort((a, b) => contrast[b] - contrast[a]);
  return { middle, ranking, peaks: rows.map((row) => Math.max(...row, 1e-9)) };
}

// |turned back - upright| / |upright| over the disc that every rotation keeps (bilinear).
function measureChange(maps, upright, side, angle) {
  const centre = (side - 1) / 2;
  const area = side * side;
  const radians = (angle * Math.PI) / 180;
  const cosine = Math.cos(radians);
  const sine = Math.sin(radians);
  let difference = 0,
    size = 0;
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const u = x - centre;
      const v = y - centre;
      if (u * u + v * v > centre * centre) continue;
      const column = cosine * u + sine * v + centre;
      const row = cosine * v - sine * u + centre;
      const left = Math.min(Math.max(Math.floor(column), 0), side - 2);
      const top = Math.min(Math.max(Math.floor(row), 0), side - 2);
      const a = column - left;
      const b = row - top;
      for (
        let at = top * side + left, here = y * side + x;
        here < maps.length;
        at += area, here += area
      ) {
        const value =
          (1 - b) * ((1 - a) * maps[at] + a * maps[at + 1]) +
          b * ((1 - a) * maps[at + side] + a * maps[at + side + 1]);
        difference += (value - upright[here]) ** 2;
        size += upright[here] ** 2;
      }
    }
  return Math.sqrt(difference / (size || 1));
}
