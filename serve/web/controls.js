// Sliders with a mark at the photo's own value, and the light sphere.

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// One number. `own` is the photo's value; a slider that was not moved is not part of the edit.
export class Slider {
  constructor({ name, label, min, max, step = 0.01, unit = "", own = 0, digits }, changed) {
    Object.assign(this, { name, label, min, max, unit, step });
    this.digits = digits ?? (step >= 1 ? 0 : 2);
    this.own = own;
    this.exact = null; // the value as set, if the slider has fewer digits or a smaller range
    this.moved = false;
    this.input = element("input", { type: "range", id: `s-${name}`, min, max, step, "aria-describedby": `o-${name}` });
    this.output = element("output", { for: `s-${name}`, id: `o-${name}` });
    this.tick = element("i", { class: "tick own", title: "as photographed" });
    this.got = element("i", { class: "tick got", title: "achieved", hidden: true });
    this.back = element("button", { type: "button", class: "back plain", "aria-label": `${label}: reset to the photo`, title: "Reset to the photo" }, "↺");
    this.root = element("div", { class: "slider" },
      element("label", { for: `s-${name}` }, label),
      element("div", { class: "track" }, this.tick, this.got, this.input), this.output, this.back);
    this.input.addEventListener("input", () => { this.exact = null; this.moved = true; this.draw(); changed(); });
    this.input.addEventListener("keydown", (event) => { if (event.key === "Delete" || event.key === "Backspace") { this.reset(); changed(); } });
    this.back.addEventListener("click", () => { this.reset(); changed(); this.input.focus(); });
    this.reset();
  }

  get value() { return this.exact ?? Number(this.input.value); }
  set(value) { this.input.value = this.exact = value; this.moved = true; this.draw(); }
  reset() { this.input.value = this.own; this.exact = null; this.moved = false; this.achieved(null); this.draw(); }
  from(own) { this.own = Math.min(this.max, Math.max(this.min, own ?? 0)); this.reset(); }
  achieved(value) { this.got.hidden = value == null; if (value != null) this.got.style.setProperty("--at", this.share(value)); }
  share(value) { return Math.min(1, Math.max(0, (value - this.min) / (this.max - this.min))); }

  draw() {
    const at = this.share(this.value), own = this.share(this.own);
    this.root.style.setProperty("--low", Math.min(at, own));
    this.root.style.setProperty("--high", Math.max(at, own));
    this.tick.style.setProperty("--at", own);
    const text = `${this.value.toFixed(this.digits).replace("-", "−")}${this.unit}`;
    this.output.value = text;
    this.input.setAttribute("aria-valuetext", this.moved ? text : `${text}, as photographed`);
    this.root.classList.toggle("moved", this.moved);
  }
}

const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
export const linearOf = (hex) => [1, 3, 5].map((i) => Math.round(1e4 * linear(parseInt(hex.slice(i, i + 2), 16) / 255)) / 1e4);
const shown = (v) => 255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * Math.min(1, v) ** (1 / 2.4) - 0.055);
export const hexOf = (colour) => `#${(colour ?? [1, 1, 1]).map((v) => Math.round(shown(v)).toString(16).padStart(2, "0")).join("")}`;

// Sphere lit by the lamp. Pointer and arrow keys move the lamp; at the rim it is behind the face.
export class Sphere {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.azimuth = 0; this.elevation = 20;
    this.strength = () => ({ intensity: 0.8, ambient: 0.4, colour: [1, 1, 1] });
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      let x = ((event.clientX - box.left) / box.width) * 2.2 - 1.1, y = 1.1 - ((event.clientY - box.top) / box.height) * 2.2;
      const reach = Math.hypot(x, y);
      if (reach > 0.985) { x *= 0.985 / reach; y *= 0.985 / reach; }
      this.turn(Math.round((Math.atan2(x, Math.sqrt(1 - x * x - y * y)) * 180) / Math.PI), Math.round((Math.asin(y) * 180) / Math.PI));
      changed();
    };
    canvas.addEventListener("pointerdown", (event) => { if (canvas.closest("fieldset:disabled")) return; canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) point(event); });
    canvas.addEventListener("keydown", (event) => {
      const by = event.shiftKey ? 15 : 5;
      const step = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] }[event.key];
      if (!step || canvas.closest("fieldset:disabled")) return;
      event.preventDefault();
      this.turn(this.azimuth + step[0], this.elevation + step[1]);
      changed();
    });
  }

  turn(azimuth, elevation) {
    this.azimuth = Math.min(180, Math.max(-180, azimuth));
    this.elevation = Math.min(90, Math.max(-90, elevation));
    this.draw();
  }

  draw() {
    const { canvas, azimuth, elevation } = this, { intensity, ambient, colour } = this.strength();
    const side = canvas.width, context = canvas.getContext("2d"), picture = context.createImageData(side, side);
    const [a, e] = [(azimuth * Math.PI) / 180, (elevation * Math.PI) / 180];
    const lamp = [Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e)];
    for (let row = 0; row < side; row++) for (let column = 0; column < side; column++) {
      const x = ((column + 0.5) / side) * 2.2 - 1.1, y = 1.1 - ((row + 0.5) / side) * 2.2, inside = 1 - x * x - y * y;
      if (inside < -0.02) continue;
      const z = Math.sqrt(Math.max(0, inside)), lit = Math.max(0, x * lamp[0] + y * lamp[1] + z * lamp[2]);
      const soft = 0.75 * lit + 0.25 * Math.max(0, 0.5 + 0.5 * (x * lamp[0] + y * lamp[1] + z * lamp[2])) ** 2;
      const at = 4 * (row * side + column);
      for (let c = 0; c < 3; c++) picture.data[at + c] = shown(0.62 * (ambient * 0.75 + intensity * colour[c] * soft));
      picture.data[at + 3] = 255 * Math.min(1, Math.max(0, (inside + 0.02) * side * 0.25));
    }
    context.putImageData(picture, 0, 0);
    const cx = ((lamp[0] + 1.1) / 2.2) * side, cy = ((1.1 - lamp[1]) / 2.2) * side;
    context.beginPath();
    context.arc(cx, cy, side * 0.04, 0, 2 * Math.PI);
    context.fillStyle = lamp[2] < 0 ? "rgba(255,255,255,.25)" : "#fff";
    context.fill();
    context.lineWidth = side * 0.014;
    context.strokeStyle = "#25697a";
    context.stroke();
    const [aside, high] = [Math.round(azimuth), Math.round(elevation)];
    const sideways = aside === 0 ? "in front" : `${Math.abs(aside)}° ${aside > 0 ? "right" : "left"}`;
    canvas.setAttribute("aria-valuenow", aside);
    canvas.setAttribute("aria-valuetext", `${sideways}, ${Math.abs(high)}° ${high >= 0 ? "up" : "down"}`);
  }
}
