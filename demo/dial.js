// The dial: the digit as the networks get it, and a knob at its angle.
"use strict";

function drawDial(canvas, image, angle) {
  const [context, side] = prepareCanvas(canvas);
  const middle = side / 2;
  const radius = middle - 26;
  const [ink, faint, soft, muted] = ["--ink", "--faint", "--soft", "--muted"].map((name) =>
    cssColour(canvas, name),
  );
  context.translate(middle, middle);
  const disc = (x, y, r, colour) => {
    context.beginPath();
    context.arc(x, y, r, 0, TURN);
    context.fillStyle = colour;
    context.fill();
  };
  context.lineWidth = 1.5;
  for (let a = 0; a < 360; a += 15) {
    context.strokeStyle = a % 45 ? faint : muted;
    context.beginPath();
    context.moveTo(...pointAt(a, radius + (a % 45 ? 9 : 6)));
    context.lineTo(...pointAt(a, radius + 13));
    context.stroke();
  }
  disc(0, 0, radius, soft);
  context.save();
  context.beginPath();
  context.arc(0, 0, radius, 0, TURN);
  context.clip();
  const half = 0.94 * radius;
  drawDigit(context, image, ink, -half, -half, 2 * half);
  context.restore();
  disc(...pointAt(angle, radius + 9.5), 9, ink);
}

// Drag the dial: `turn` gets the angle that it had before plus that of the movement, in degrees.
function onDrag(canvas, readAngle, turn) {
  let grip = null; // the angle of the dial minus that of the pointer
  const angleOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2;
    const y = event.clientY - box.top - box.height / 2;
    return (Math.atan2(-x, -y) * 180) / Math.PI;
  };
  canvas.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    grip = readAngle() - angleOf(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (grip !== null) turn(grip + angleOf(event));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      grip = null;
    });
  }
}
