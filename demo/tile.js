// The inner loop of a convolution: 8 channels by 4 neighbouring pixels.
//
// tile(input, kernel, offsets, end, output, plane) takes addresses in bytes and computes
//   output[r][0..3] = sum over i of kernel[i][r] * input[offsets[i] .. +3],   r = 0..7,
// where `offsets` are int32 numbers of bytes up to the address `end`, and `plane` is the number of
// bytes from one output channel to the next. Numbers are float32.
"use strict";

const TILE = { channels: 8, pixels: 4 };

// The same as WebAssembly with 128-bit vectors, assembled here, since 200 bytes need no compiler.
function assembleTile() {
  const number = (value) => (value < 128 ? [value] : [(value & 127) | 128, value >> 7]); // LEB128
  const section = (id, ...content) => [id, ...number(content.length), ...content];
  const [i32, v128] = [0x7f, 0x7b];
  const get = (local) => [0x20, local];
  const set = (local) => [0x21, local];
  const tee = (local) => [0x22, local];
  const add = 0x6a;
  const vector = (code, ...memory) => [0xfd, ...number(code), ...memory];
  const [input, kernel, offsets, end, output, plane, pixels, sums] = [0, 1, 2, 3, 4, 5, 6, 7];
  const rows = [...Array(TILE.channels).keys()];
  const advance = (local, bytes) => [...get(local), 0x41, bytes, add];
  // prettier-ignore
  const code = [
    0x03, 0x40, // loop
    ...get(input), ...get(offsets), 0x28, 2, 0, add, // input + the next offset
    ...vector(0x00, 2, 0), ...set(pixels), // v128.load
    ...rows.flatMap((r) => [
      ...get(sums + r),
      ...get(kernel), ...vector(0x09, 2, 4 * r), // v128.load32_splat
      ...get(pixels), ...vector(0xe6), // f32x4.mul
      ...vector(0xe4), ...set(sums + r), // f32x4.add
    ]),
    ...advance(kernel, 4 * TILE.channels), ...set(kernel),
    ...advance(offsets, 4), ...tee(offsets),
    ...get(end), 0x49, 0x0d, 0, // continue below the end
    0x0b,
    ...rows.flatMap((r) => [
      ...get(output), ...get(sums + r), ...vector(0x0b, 2, 0), // v128.store
      ...get(output), ...get(plane), add, ...set(output),
    ]),
    0x0b,
  ];
  const body = [1, 1 + TILE.channels, v128, ...code]; // nine local vectors
  // prettier-ignore
  return new Uint8Array([
    0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0, // WebAssembly, version 1
    ...section(1, 1, 0x60, 6, i32, i32, i32, i32, i32, i32, 0), // the type: six integers -> nothing
    ...section(2, 1, 1, 0x6d, 1, 0x6d, 2, 0, 1), // imports memory "m" "m"
    ...section(3, 1, 0),
    ...section(7, 1, 1, 0x74, 0, 0), // exports function "t"
    ...section(10, 1, ...number(body.length), ...body),
  ]);
}

// The same in plain JavaScript, for browsers without vector instructions: 4 channels at a time.
function makePlainTile(buffer) {
  const floats = new Float32Array(buffer);
  const integers = new Int32Array(buffer);
  return (input, kernel, offsets, end, output, plane) => {
    for (let half = 0; half < TILE.channels; half += 4) {
      // prettier-ignore
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      // prettier-ignore
      let c0 = 0, c1 = 0, c2 = 0, c3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
      let q = (kernel >> 2) + half;
      for (let i = offsets >> 2; i < end >> 2; i++, q += TILE.channels) {
        const p = (input + integers[i]) >> 2;
        // prettier-ignore
        const x0 = floats[p], x1 = floats[p + 1], x2 = floats[p + 2], x3 = floats[p + 3];
        // prettier-ignore
        const a = floats[q], b = floats[q + 1], c = floats[q + 2], d = floats[q + 3];
        a0 += a * x0;
        a1 += a * x1;
        a2 += a * x2;
        a3 += a * x3;
        b0 += b * x0;
        b1 += b * x1;
        b2 += b * x2;
        b3 += b * x3;
        c0 += c * x0;
        c1 += c * x1;
        c2 += c * x2;
        c3 += c * x3;
        d0 += d * x0;
        d1 += d * x1;
        d2 += d * x2;
        d3 += d * x3;
      }
      const o = (output + half * plane) >> 2;
      const next = plane >> 2;
      floats.set([a0, a1, a2, a3], o);
      floats.set([b0, b1, b2, b3], o + next);
      floats.set([c0, c1, c2, c3], o + 2 * next);
      floats.set([d0, d1, d2, d3], o + 3 * next);
    }
  };
}

// Memory for numbers, and the fastest tile that this browser runs on it.
class Arena {
  constructor(bytes, vectors = true) {
    this.used = 0;
    this.vectors = false;
    try {
      if (!vectors) throw new Error("plain JavaScript was asked for");
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      const module = new WebAssembly.Module(assembleTile());
      this.tile = new WebAssembly.Instance(module, { m: { m: memory } }).exports.t;
      this.buffer = memory.buffer;
      this.vectors = true;
    } catch {
      this.buffer = new ArrayBuffer(bytes);
      this.tile = makePlainTile(this.buffer);
    }
  }

  allocate(Kind, length) {
    const start = this.used;
    this.used += 16 * Math.ceil((4 * length) / 16);
    return new Kind(this.buffer, start, length);
  }
}
