// The drawing area, and strokes as a digit.
"use strict";

const PEN = 2.4; // pixels of a digit
const BOX = 20; // MNIST's digits fill a box of 20 by 20 pixels; their centre of mass is centred
const FINE = 10; // drawn in ten times as many pixels, then averaged

// Make a digit of strokes, lists of points [x, y], as MNIST was made of scanned digits.
function rasterise(strokes) {
  const points = strokes.flat();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE * FINE;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [top, bottom] = [Math.min(...ys), Math.max(...ys)];
  const scale = (BOX - PEN) / Math.max(right - left, bottom - top, 0.15);
  let shift = [SIDE / 2, SIDE / 2],
    digit;
  for (let pass = 0; pass < 2; pass++) {
    // the second time about the centre of mass
    const place = ([x, y]) => [
      FINE * (scale * (x - (left + right) / 2) + shift[0]),
      FINE * (scale * (y - (top + bottom) / 2) + shift[1]),
    ];
    context.clearRect(0, 0, canvas.width, canvas.height);
    drawStrokes(
      context,
      strokes.map((stroke) => stroke.map(place)),
      FINE * PEN,
      "#fff",
    );
    digit = average(context.getImageData(0, 0, canvas.width, canvas.height).data);
    let [sum, x, y] = [0, 0, 0];
    digit.forEach((value, i) => {
      sum += value;
      x += value * ((i % SIDE) + 0.5);
      y += value * (Math.floor(i / SIDE) + 0.5);
    });
    shift = [shift[0] + SIDE / 2 - x / sum, shift[1] + SIDE / 2 - y / sum];
  }
  return digit;
}

function drawStrokes(context, strokes, width, colour) {
  Object.assign(context, {
    lineWidth: width,
    lineCap: "round",
    lineJoin: "round",
    strokeStyle: colour,
  });
  for (const [first, ...rest] of strokes) {
    context.beginPath();
    context.moveTo(...first);
    for (const point of rest.length ? rest : [first]) context.lineTo(...point);
    context.stroke();
  }
}

function average(pixels) {
  const digit = new Uint8Array(SIDE * SIDE);
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      let sum = 0;
      for (let j = 0; j < FINE; j++)
        for (let i = 0; i < FINE; i++) {
          sum += pixels[4 * ((y * FINE + j) * SIDE * FINE + x * FINE + i) + 3];
        }
      digit[y * SIDE + x] = Math.round(sum / FINE ** 2);
    }
  return digit;
}

// The drawing area: calls `change` with the strokes after every movement of the pen.
class Pad {
  constructor(canvas, change) {
    Object.assign(this, { canvas, change, strokes: [] });
    let stroke = null;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      this.strokes.push((stroke = [place(event)]));
      this.update();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!stroke) return;
      const events = event.getCoalescedEvents?.() ?? [];
      stroke.push(...(events.length ? events : [event]).map(place));
      this.update();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        stroke = null;
      });
    }
  }

  update() {
    this.draw();
    this.change(this.strokes);
  }

  clear() {
    this.strokes = [];
    this.draw();
  }

  draw() {
    const [context, side] = prepareCanvas(this.canvas);
    const ink = cssColour(this.canvas, "--ink");
    drawStrokes(
      context,
      this.strokes.map((stroke) => stroke.map(([x, y]) => [x * side, y * side])),
      side * 0.07,
      ink,
    );
    if (!this.strokes.length) {
      context.fillStyle = cssColour(this.canvas, "--muted");
      context.font = "13px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText("draw here", side / 2, side / 2 + 4);
    }
  }
}
