// Canvases that are sharp on every screen, and maps and digits as ink on them.
"use strict";

// Fit the bitmap of a canvas to the screen; returns a context in CSS pixels and the side.
function prepareCanvas(canvas) {
  const side = canvas.clientWidth;
  const density = window.devicePixelRatio || 1;
  const pixels = Math.round(side * density);
  if (canvas.width !== pixels || canvas.height !== pixels) canvas.width = canvas.height = pixels;
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  context.clearRect(0, 0, side, side);
  return [context, side];
}

const cssColour = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

// Paint maps side by side, in one colour whose opacity is value / most.
function paintMaps(canvas, maps, side, most, colour) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const width = maps.length * side;
  if (canvas.width !== width || canvas.height !== side) {
    canvas.width = width;
    canvas.height = side;
  }
  const image = context.createImageData(width, side);
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  maps.forEach((values, n) => {
    for (let i = 0; i < side * side; i++) {
      const to = 4 * (Math.floor(i / side) * width + n * side + (i % side));
      image.data[to] = red;
      image.data[to + 1] = green;
      image.data[to + 2] = blue;
      image.data[to + 3] = (255 * values[i]) / most; // clamped to 0..255
    }
  });
  context.putImageData(image, 0, 0);
}

const TURN = 2 * Math.PI;
const toRadians = (degrees) => (degrees * Math.PI) / 180;
// A point at an angle, counter-clockwise from the top.
const pointAt = (degrees, radius) => [
  -radius * Math.sin(toRadians(degrees)),
  -radius * Math.cos(toRadians(degrees)),
];

// The digit as the networks get it.
function drawDigit(context, image, colour, x, y, side) {
  paintMaps(drawDigit.canvas, [image], SIDE, 255, colour);
  context.imageSmoothingEnabled = false;
  context.drawImage(drawDigit.canvas, x, y, side, side);
}
drawDigit.canvas = document.createElement("canvas");

// Write a text where it differs: an equal one would be laid out again, too.
function write(node, html) {
  if (node.innerHTML !== html) node.innerHTML = html;
}
