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
    document.getElementById("cards").append(node);
  }

  showProbabilities(probabilities, angle, chosen) {
    const most = indexOfMost(probabilities);
    const [digit, share] = this.verdict.children;
    digit.textContent = most;
    share.textContent = percent(probabilities[most]);
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
    this.polar.querySelector("h3").textContent = `Probability of ${chosen}`;
    if (!known.length) return;
    const right = percent(1 - missed.length / known.length);
    const lowest = percent(Math.min(...values));
    this.polar.querySelector("figcaption").innerHTML =
      `Right at <b>${right}</b> of angles, lowest <b>${lowest}</b>`;
    const described = `Probability of ${chosen} against the angle: at least ${lowest}`;
    this.polar.querySelector("svg").setAttribute("aria-label", described);
  }

  // A channel in all its orientations around their maximum; `back`: rotated back by the angle.
  showMaps({ order, side, values, ranking, peaks, change }, rank, angle, back) {
    const canvas = this.maps.querySelector("canvas");
    const channel = ranking[Math.min(rank, ranking.length - 1)];
    const planes = Array.from({ length: order }, (_, g) => {
      const start = (channel * order + g) * side * side;
      return values.subarray(start, start + side * side);
    });
    const turned = back ? toRadians(angle) : 0;
    this.drawRing(canvas, planes, side, 0.9 * peaks[channel], turned);
    canvas.setAttribute("aria-label", `Channel ${channel + 1} in ${order} orientations`);
    this.maps.querySelector("h3").textContent = `Channel ${channel + 1} of ${ranking.length}`;
    const changed = `Turned back, <b>${percent(change)}</b> different`;
    this.maps.querySelector("figcaption").innerHTML = changed;
  }

  drawRing(canvas, planes, side, most, turned) {
    const [context, size] = prepareCanvas(canvas);
    const names = ["--hue", "--soft", "--faint"];
    const [hue, soft, faint] = names.map((name) => cssColour(this.element, name));
    const small = size * 0.13; // radii of the discs
    const far = size / 2 - small - 1;
    const large = far - small - size * 0.025;
    context.translate(size / 2, size / 2);
    context.rotate(turned);
    context.imageSmoothingQuality = "high";
    const disc = (plane, [x, y], radius) => {
      context.save();
      context.beginPath();
      context.arc(x, y, radius, 0, TURN);
      context.fillStyle = soft;
      context.fill();
      context.clip();
      const map = paintMap(plane, side, most, hue);
      context.drawImage(map, x - radius, y - radius, 2 * radius, 2 * radius);
      context.restore();
    };
    const order = planes.length;
    disc(
      planes[0].map((_, i) => Math.max(...planes.map((plane) => plane[i]))),
      [0, 0],
      large,
    );
    context.strokeStyle = faint;
    context.setLineDash([3, 4]);
    for (let place = 0; place < PLACES; place++) {
      if (order > 1 && place % (PLACES / order) === 0) continue;
      context.beginPath();
      context.arc(...pointAt((360 * place) / PLACES, far), small - 1, 0, TURN);
      context.stroke();
    }
    if (order === 1) return;
    // In images that are stored transposed, orientations count clockwise.
    const step = (this.description.transposed ? -360 : 360) / order;
    planes.forEach((plane, g) => disc(plane, pointAt(g * step, far), small));
  }
}
