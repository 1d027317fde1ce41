// A digit, 28 by 28 values from 0 to 255 in rows, and how MNIST-rot rotates it.
"use strict";

const SIDE = 28;
const SIGMA = 0.3; // pixels

// Rotate a digit counter-clockwise about its centre, as pdoe.data.rotation does: the value at a
// point is the Gaussian average of the pixels around it, over 5 by 5 pixels.
function rotateDigit(digit, angle) {
  const centre = (SIDE - 1) / 2;
  const cosine = Math.cos(angle);
  const sine = Math.sin(angle);
  const result = new Uint8Array(SIDE * SIDE);
  const across = new Float64Array(5);
  const down = new Float64Array(5);
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      const u = x - centre;
      const v = y - centre;
      const column = cosine * u - sine * v + centre;
      const row = sine * u + cosine * v + centre;
      const left = weigh(column, across);
      const top = weigh(row, down);
      let sum = 0;
      for (let j = 0; j < 5; j++)
        for (let i = 0; i < 5; i++) {
          const p = left + i;
          const q = top + j;
          if (p >= 0 && p < SIDE && q >= 0 && q < SIDE)
            sum += down[j] * across[i] * digit[q * SIDE + p];
        }
      result[y * SIDE + x] = Math.round(sum);
    }
  return result;
}

// Normalised weights of the five pixels nearest to a point; returns the first of these pixels.
function weigh(point, weights) {
  const first = Math.round(point) - 2;
  let sum = 0;
  for (let i = 0; i < 5; i++) {
    weights[i] = Math.exp(-((point - first - i) ** 2) / (2 * SIGMA ** 2));
    sum += weights[i];
  }
  for (let i = 0; i < 5; i++) weights[i] /= sum;
  return first;
}
