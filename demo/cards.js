// One card for each network: probabilities, the curve over all angles, feature maps.
"use strict";

const percent = (p) => `${Math.round(100 * p)} %`;
const indexOfMost = (values) => values.indexOf(Math.max(...values));

const PLACES = 8; // on the ring of discs: the order of the largest group

class Card {
  constructor(description, title, kind, facts, style) {
    const node = document.getElementById("card").content.cloneNode(true);
    this.element = node.querySelector("article");
    this.element.classList.add(style);
    this.description = description;
    const find = (selector) => node.querySelector(selector);
    find("h2").textContent = title;
    find(".kind").textContent = kind;
    find(".facts").textContent = facts;
    this.verdict = find(".verdict");
    this.bars = find(".bars");
    for (let c = 0; c < description.classes; c++) {
      const bar = document.createElement("div");
      bar.append(document.createElement("i"), String(c));
      this.bars.append(bar);
    }
    this.polar = find(".polar");
    this.maps = find(".maps");
    this.canvas = this.maps.querySelector("canvas");
    this.painted = document.createElement("canvas");
    document.getElementById("cards").append(node);
  }

  showProbabilities(probabilities, angle, chosen) {
    const most = indexOfMost(probabilities);
    const [digit, share] = this.verdict.children;
    write(digit, String(most));
    write(share, percent(probabilities[most]));
    this.verdict.classList.toggle("false", most !== chosen);
    [...this.bars.children].forEach((bar, c) => {
      bar.style.setProperty("--p", probabilities[c].toFixed(4));
      bar.classList.toggle("true", c === chosen);
    });
    this.bars.setAttribute(
      "aria-label",
      `Probabilities: ${most} has ${percent(probabilities[most])}`,
    );
    const [x, y] = pointAt(angle, 100 * (probabilities[chosen] ?? 0));
    const rim = pointAt(angle, 100);
    this.polar.querySelector(".hand").setAttribute("d", `M0 0L${rim}`);
    const knob = this.polar.querySelector(".knob");
    knob.setAttribute("cx", x);
    knob.setAttribute("cy", y);
  }

  // The curve: points[step] are the probabilities at an angle, or undefined so far.
  showCurve(points, chosen) {
    const width = 360 / points.length;
    const known = [...points.keys()].filter((step) => points[step]);
    const values = known.map((step) => points[step][chosen]);
    const ends = known.map((step, i) => pointAt(step * width, 100 * values[i]));
    const path = known.length < 3 ? "" : `M${ends.join("L")}Z`;
    const missed = known.filter((step) => indexOfMost(points[step]) !== chosen);
    const arcs = missed.map((step) => {
      const [from, to] = [step - 0.5, step + 0.5].map((place) => pointAt(place * width, 100));
      return `M${from}A100 100 0 0 0 ${to}`;
    });
    const draw = (name, d) => this.polar.querySelector(name).setAttribute("d", d);
    draw(".area", path);
    draw(".line", path);
    draw(".wrong", arcs.join(""));
    write(this.polar.querySelector("h3"), `Probability of ${chosen} by angle`);
    if (!known.length) return;
    const right = percent(1 - missed.length / known.length);
    const lowest = percent(Math.min(...values));
    const caption = `Right at <b>${right}</b> of angles, lowest <b>${lowest}</b>`;
    write(this.polar.querySelector("figcaption"), caption);
    const described = `Probability of ${chosen} against the angle: at least ${lowest}`;
    this.polar.querySelector("svg").setAttribute("aria-label", described);
  }

  // A channel in all its orientations around their maximum; `back`: rotated back by the angle.
  drawMaps({ order, side, values, ranking, peaks }, rank, angle, back) {
    const channel = ranking[Math.min(rank, ranking.length - 1)];
    const planes = Array.from({ length: order }, (_, g) => {
      const start = (channel * order + g) * side * side;
      return values.subarray(start, start + side * side);
    });
    const middle = planes[0].map((_, i) => Math.max(...planes.map((plane) => plane[i])));
    const names = ["--hue", "--soft", "--faint"];
    const [hue, soft, faint] = names.map((name) => cssColour(this.element, name));
    paintMaps(this.painted, [middle, ...planes], side, 0.9 * peaks[channel], hue);
    const [context, size] = prepareCanvas(this.canvas);
    context.translate(size / 2, size / 2);
    context.rotate(back ? toRadians(angle) : 0);
    this.drawRing(context, size, order, soft, faint);
  }

  drawRing(context, size, order, soft, faint) {
    const small = size * 0.13; // radii of the discs
    const far = size / 2 - small - 1;
    const large = far - small - size * 0.025;
    const side = this.painted.height;
    const circle = ([x, y], radius) => {
      context.beginPath();
      context.arc(x, y, radius, 0, TURN);
    };
    const disc = (number, [x, y], radius) => {
      const target = [x - radius, y - radius, 2 * radius, 2 * radius];
      context.save();
      circle([x, y], radius);
      context.fill();
      context.clip();
      context.drawImage(this.painted, number * side, 0, side, side, ...target);
      context.restore();
    };
    Object.assign(context, { fillStyle: soft, strokeStyle: faint, imageSmoothingQuality: "high" });
    context.setLineDash([3, 4]);
    for (let place = 0; place < PLACES; place++) {
      if (order > 1 && place % (PLACES / order) === 0) continue;
      circle(pointAt((360 * place) / PLACES, far), small - 1);
      context.stroke();
    }
    disc(0, [0, 0], large);
    if (order === 1) return;
    // In images that are stored transposed, orientations count clockwise.
    const step = (this.description.transposed ? -360 : 360) / order;
    for (let g = 0; g < order; g++) disc(g + 1, pointAt(g * step, far), small);
  }

  describeMaps({ order, ranking, change }, rank) {
    const channel = ranking[Math.min(rank, ranking.length - 1)] + 1;
    this.canvas.setAttribute("aria-label", `Channel ${channel} in ${order} orientations`);
    write(this.maps.querySelector("h3"), `Feature maps, channel ${channel}`);
    const changed = `Turned back, <b>${percent(change)}</b> different`;
    write(this.maps.querySelector("figcaption"), changed);
  }
}
