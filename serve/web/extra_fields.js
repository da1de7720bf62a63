// Fields of a loaded edit without a control in the panel: kept unchanged, listed, removable one by one.

import { element } from "./controls.js";

const get = (id) => document.getElementById(id);
const LIT = ["azimuth_deg", "elevation_deg", "intensity", "ambient", "colour"]; // fields of a light with a control in the panel
const number = (value) => typeof value === "number" && Number.isFinite(value);
const numbers = (value, count) => Array.isArray(value) && value.length === count && value.every(number);

export class ExtraFields {
  // `known`: names of expressions with a slider; `dropped` is called after a removal.
  constructor(known, dropped) {
    Object.assign(this, { known: new Set(known), dropped });
    this.clear();
  }

  clear() { Object.assign(this, { edit: {}, expression: {}, light: {} }); this.draw(); }

  // Keep the extra fields of an edit; returns the names of unknown or invalid fields.
  take(preset, fields) {
    const strange = Object.keys(preset).filter((name) => ![...fields, "relative", "region"].includes(name));
    const { relative, region, expression = {}, light } = preset;
    if (relative === true) this.edit.relative = true; else if (![undefined, false].includes(relative)) strange.push("relative");
    if (["eyes", "mouth", "hair"].includes(region)) this.edit.region = region; else if (![undefined, "face"].includes(region)) strange.push("region");
    for (const [name, value] of Object.entries(expression)) {
      if (!number(value)) strange.push(`expression.${name}`); else if (!this.known.has(name)) this.expression[name] = value;
    }
    for (const [name, value] of Object.entries(light ?? {})) {
      const harmonics = name === "sh" && Array.isArray(value) && value.length === 9 && value.every((row) => numbers(row, 3));
      if (harmonics || (name === "relative" && value === false)) this.light[name] = value;
      else if (LIT.includes(name) ? !(number(value) || numbers(value, 3)) : !(value === null || value === true)) strange.push(`light.${name}`);
    }
    this.draw();
    return strange;
  }

  // Moving the lamp replaces a light that was given by its harmonics.
  moved() { if (this.light.sh) { delete this.light.sh; this.draw(); } }

  draw() {
    const lines = [];
    const line = (text, of, name) => lines.push(element("span", {}, text, element("button", { type: "button", class: "plain", "aria-label": `Remove: ${text}`, onclick: () => { delete of[name]; this.draw(); this.dropped(); } }, "×")));
    if (this.edit.relative) line("Angles are relative to the pose", this.edit, "relative");
    if (this.edit.region) line(`In the region ${this.edit.region} only`, this.edit, "region");
    if (this.light.sh) line("Light by spherical harmonics", this.light, "sh");
    if (this.light.relative === false) line("Light not scaled to the photo's", this.light, "relative");
    for (const [name, value] of Object.entries(this.expression)) line(`${name} ${value}`.replace("-", "−"), this.expression, name);
    get("extra").replaceChildren(...lines);
    get("extra-group").hidden = !lines.length;
  }
}
