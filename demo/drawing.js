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

// A small canvas with one colour whose opacity is value / most.
function paintMap(values, side, most, colour, canvas = document.createElement("canvas")) {
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const image = context.createImageData(side, side);
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  for (let i = 0; i < side * side; i++) {
    image.data[4 * i] = red;
    image.data[4 * i + 1] = green;
    image.data[4 * i + 2] = blue;
    image.data[4 * i + 3] = (255 * values[i]) / most; // clamped to 0..255
  }
  context.putImageData(image, 0, 0);
  return canvas;
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
  context.imageSmoothingEnabled = false;
  context.drawImage(paintMap(image, SIDE, 255, colour), x, y, side, side);
}
