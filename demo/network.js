// The networks: equivariant convolutions, ReLU, pooling. A map is an array of planes [C * G] of
// `height` rows, each `stride` numbers long (a multiple of 4), of which `width` count.
"use strict";

const MEMORY = 16 * 2 ** 20;
const roundUp = (value, unit) => unit * Math.ceil(value / unit);

function makeMap(arena, channels, height, width) {
  const stride = roundUp(width, TILE.pixels);
  const planes = roundUp(channels, TILE.channels);
  const data = arena.allocate(Float32Array, planes * height * stride + 32); // a tile may read on
  return { channels, height, width, stride, plane: height * stride, data };
}

// The kernel of a group convolution: weight [C', C, H, K] times the filter bank [G, K, k * k],
//   kernel[c' g][c h] = sum over k of weight[c', c, relative[g][h], k] * bank[g, k],
// in the order in which a tile reads it: 8 output channels side by side.
function expandKernel(arena, op, floats) {
  const { outputs, inputs, order, orderIn, size, relative } = op;
  const area = size * size;
  const taps = inputs * orderIn * area;
  const weight = floats.subarray(op.weight, op.weight + outputs * inputs * orderIn * op.filters);
  const bank = floats.subarray(op.bank, op.bank + order * op.filters * area);
  const kernel = arena.allocate(Float32Array, taps * roundUp(outputs * order, TILE.channels));
  for (let c = 0; c < outputs; c++)
    for (let g = 0; g < order; g++) {
      const channel = c * order + g;
      const block = channel - (channel % TILE.channels);
      for (let i = 0; i < inputs; i++)
        for (let h = 0; h < orderIn; h++) {
          const from = ((c * inputs + i) * orderIn + relative[g][h]) * op.filters;
          for (let t = 0; t < area; t++) {
            let sum = 0;
            for (let k = 0; k < op.filters; k++) {
              sum += weight[from + k] * bank[(g * op.filters + k) * area + t];
            }
            const tap = (i * orderIn + h) * area + t;
            kernel[block * taps + tap * TILE.channels + channel - block] = sum;
          }
        }
    }
  return kernel;
}

function makeConvolution(arena, op, floats, source) {
  const { size, padding, outputs, order } = op;
  const padded = padding
    ? makeMap(arena, source.channels, source.height + 2 * padding, source.width + 2 * padding)
    : source;
  const map = makeMap(arena, outputs * order, padded.height - size + 1, padded.width - size + 1);
  const kernel = expandKernel(arena, op, floats);
  const taps = source.channels * size * size;
  const offsets = arena.allocate(Int32Array, taps);
  for (let c = 0, i = 0; c < source.channels; c++) {
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++) {
        offsets[i++] = 4 * (c * padded.plane + y * padded.stride + x);
      }
  }
  const bias = floats.subarray(op.bias, op.bias + outputs);
  const run = () => {
    if (padding) copyInside(source, padded, padding);
    convolve(arena.tile, padded, kernel, offsets, map);
    for (let c = 0; c < map.channels; c++) {
      const shift = bias[Math.floor(c / order)];
      for (let i = c * map.plane; i < (c + 1) * map.plane; i++) {
        const value = map.data[i] + shift;
        map.data[i] = op.relu && value < 0 ? 0 : value;
      }
    }
  };
  return { map, run, order };
}

function copyInside(source, padded, padding) {
  for (let c = 0; c < source.channels; c++)
    for (let y = 0; y < source.height; y++) {
      const from = c * source.plane + y * source.stride;
      const to = c * padded.plane + (y + padding) * padded.stride + padding;
      padded.data.set(source.data.subarray(from, from + source.width), to);
    }
}

function convolve(tile, source, kernel, offsets, map) {
  const taps = offsets.length;
  const end = offsets.byteOffset + offsets.byteLength;
  for (let c = 0; c < map.channels; c += TILE.channels) {
    const filters = kernel.byteOffset + 4 * c * taps;
    for (let y = 0; y < map.height; y++)
      for (let x = 0; x < map.width; x += TILE.pixels) {
        tile(
          source.data.byteOffset + 4 * (y * source.stride + x),
          filters,
          offsets.byteOffset,
          end,
          map.data.byteOffset + 4 * (c * map.plane + y * map.stride + x),
          4 * map.plane,
        );
      }
  }
}

function makePooling(arena, op, floats, source) {
  const map = makeMap(arena, source.channels, source.height >> 1, source.width >> 1);
  const run = () => {
    for (let c = 0; c < map.channels; c++)
      for (let y = 0; y < map.height; y++) {
        const above = c * source.plane + 2 * y * source.stride;
        const below = above + source.stride;
        const { data } = source;
        const to = c * map.plane + y * map.stride;
        for (let x = 0; x < map.width; x++) {
          map.data[to + x] = Math.max(
            data[above + 2 * x],
            data[above + 2 * x + 1],
            data[below + 2 * x],
            data[below + 2 * x + 1],
          );
        }
      }
  };
  return { map, run };
}

function makeGroupPooling(arena, op, floats, source) {
  const map = makeMap(arena, source.channels / op.order, source.height, source.width);
  const run = () => {
    for (let c = 0; c < map.channels; c++)
      for (let i = 0; i < map.plane; i++) {
        let most = -Infinity;
        for (let g = 0; g < op.order; g++) {
          most = Math.max(most, source.data[(c * op.order + g) * source.plane + i]);
        }
        map.data[c * map.plane + i] = most;
      }
  };
  return { map, run };
}

const MAKERS = { convolution: makeConvolution, pool: makePooling, groupmax: makeGroupPooling };

class Network {
  constructor(description, floats, arena) {
    this.description = description;
    this.vectors = arena.vectors;
    this.input = makeMap(arena, 1, description.side, description.side);
    this.steps = [];
    let map = this.input;
    for (const op of description.ops) {
      this.steps.push(MAKERS[op.kind](arena, op, floats, map));
      map = this.steps.at(-1).map;
    }
    this.output = map;
    this.layers = this.steps.filter((step, i) => description.ops[i].relu);
  }

  // Probabilities of the classes, for an upright image of uint8 values in rows.
  classify(image) {
    const { side, mean, std, transposed } = this.description,
      { data, stride } = this.input;
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) {
        const value = image[transposed ? x * side + y : y * side + x];
        data[y * stride + x] = (value / 256 - mean) / std;
      }
    for (const step of this.steps) step.run();
    const { output } = this;
    const logits = Array.from({ length: output.channels }, (_, c) => output.data[c * output.plane]);
    const most = Math.max(...logits);
    const powers = logits.map((z) => Math.exp(z - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((power) => power / sum);
  }

  // The maps of a layer (from 0) for the last image, upright like the image: {order, side, values}
  // with values[channel][orientation][row][column] in one array.
  readLayer(number) {
    const { map, order } = this.layers[number];
    const side = map.height;
    const values = new Float32Array(map.channels * side * side);
    const { transposed } = this.description;
    for (let c = 0, i = 0; c < map.channels; c++) {
      for (let y = 0; y < side; y++)
        for (let x = 0; x < side; x++, i++) {
          const [row, column] = transposed ? [x, y] : [y, x];
          values[i] = map.data[c * map.plane + row * map.stride + column];
        }
    }
    return { order, side, values };
  }
}

function unpackFloats(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function buildNetworks(model, vectors = true) {
  const floats = unpackFloats(model.numbers);
  const arena = new Arena(MEMORY, vectors);
  return model.networks.map((description) => new Network(description, floats, arena));
}
