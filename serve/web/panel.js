// Panel of controls (sliders, light, photos to copy from), read as an edit and set from one.

import { element, linearOf, hexOf, Slider, Sphere } from "./controls.js";
import { ExtraFields } from "./extra_fields.js";

const get = (id) => document.getElementById(id);
const POSE = [["yaw_deg", "Turn", 60], ["pitch_deg", "Nod", 40], ["roll_deg", "Tilt", 40]];
const FACES = [["smile", "Smile", -0.5, 1.3], ["jaw_open", "Mouth open", 0, 1], ["brows_up", "Brows up", 0, 1], ["squint", "Squint", 0, 1], ["eyes_wide", "Eyes wide", 0, 1]];
const MORE = [["frown", "Frown", 0, 1], ["pucker", "Pucker", 0, 1], ["brows_down", "Brows down", 0, 1], ["blink", "Blink", 0, 1], ["blink_left", "Wink, their left", 0, 1], ["blink_right", "Wink, their right", 0, 1]];
const TRAITS = [["pose", "Pose"], ["expression", "Expression"], ["light", "Light"], ["shape", "Face shape"], ["identity", "Identity"]];
const HINTS = { shape: "the form of the head, not the skin", identity: "their face itself: a face swap" };
const FIELDS = ["take", "yaw_deg", "pitch_deg", "roll_deg", "expression", "light", "strength"];
const LAMP = { azimuth_deg: 0, elevation_deg: 20, intensity: 0.8, ambient: 0.4 };
const PRESETS = {
  "Smile": { expression: { smile: 0.8, squint: 0.2 } },
  "Look left": { yaw_deg: -22 },
  "Look right": { yaw_deg: 22 },
  "Surprise": { expression: { jaw_open: 0.55, brows_up: 0.9, eyes_wide: 0.8 } },
  "Side light": { light: { azimuth_deg: 65, elevation_deg: 25, intensity: 1.1, ambient: 0.18 } },
  "Soft light": { light: { azimuth_deg: 10, elevation_deg: 30, intensity: 0.35, ambient: 0.85 } },
};
const OTHERS = { light_azimuth_deg: "Light, sideways", light_elevation_deg: "Light, height", exposure: "Exposure" };
const number = (value) => typeof value === "number" && Number.isFinite(value);

// True if a state of the panel changes nothing.
export const isNothing = ({ edit, copied }) => !Object.keys(edit).some((name) => !["strength", "relative", "region"].includes(name)) && !copied.length;

export class Panel {
  // `changed` is called after every change; `analyse` finds the faces of a file.
  constructor(changed, analyse) {
    Object.assign(this, { changed, analyse, sliders: new Map(), sources: {}, lightMoved: false, exactColour: null, unknown: [] });
    this.extra = new ExtraFields([...FACES, ...MORE].map(([name]) => name), changed);
    for (const [name, label, limit] of POSE) this.add("pose", { name, label, min: -limit, max: limit, step: 1, unit: "°" });
    for (const [list, place] of [[FACES, "expression"], [MORE, "expression-more"]])
      for (const [name, label, min, max] of list) this.add(place, { name, label, min, max });
    this.intensity = this.add("light", { name: "intensity", label: "Lamp", min: 0, max: 2, own: LAMP.intensity });
    this.ambient = this.add("light", { name: "ambient", label: "Ambient", min: 0, max: 1.5, own: LAMP.ambient });
    for (const slider of [this.intensity, this.ambient]) slider.input.addEventListener("input", () => this.lit(), { capture: true });
    this.colour = element("input", { type: "color", id: "colour", value: "#ffffff", oninput: () => { this.exactColour = null; this.lit(); changed(); } });
    get("light").append(element("label", { class: "colour", for: "colour" }, "Colour", this.colour));
    this.add("whole", { name: "strength", label: "Strength", min: 0, max: 1.5, own: 1 });
    this.sphere = new Sphere(get("sphere"), () => {
      if (this.intensity.value < 0.15) this.intensity.set(0.6); // moving a lamp that is off would show nothing
      this.lit();
      changed();
    });
    this.sphere.strength = () => ({ intensity: this.intensity.value, ambient: this.ambient.value, colour: this.linear });
    this.sphere.draw();
    for (const [name, edit] of Object.entries(PRESETS))
      get("presets").append(element("button", { type: "button", class: "chip", onclick: () => { this.reset(); this.apply(edit); changed(); } }, name));
    for (const [trait, label] of TRAITS) this.card(trait, label);
  }

  add(place, options) {
    const slider = new Slider(options, () => this.changed());
    this.sliders.set(options.name, slider);
    get(place).append(slider.root);
    return slider;
  }

  card(trait, label) {
    const low = label.toLowerCase();
    const input = element("input", { type: "file", accept: "image/*", class: "hidden", tabindex: -1, "aria-label": `Photo to copy the ${low} from`, onchange: () => this.chooseSource(trait, input.files[0]) });
    const image = element("img", { alt: "", hidden: true });
    const button = element("button", { type: "button", class: "source", "aria-label": `Copy the ${low} from a photo`, title: HINTS[trait] ?? null, onclick: () => input.click() }, image, element("span", {}, label), element("small", {}, "choose a photo"));
    const drop = element("button", { type: "button", class: "plain", hidden: true, "aria-label": `Do not copy the ${low}`, onclick: () => { this.clearSource(trait); this.changed(); button.focus(); } }, "×");
    const dropped = (event) => { event.preventDefault(); event.stopPropagation(); document.body.classList.remove("over"); this.chooseSource(trait, event.dataTransfer.files[0]); };
    get("sources").append(element("div", { class: "source-card", ondrop: dropped }, button, drop, input));
    this.sources[trait] = { id: null, file: null, expected: false, image, drop, input, button };
  }

  lit() { this.lightMoved = true; this.extra.moved(); this.sphere.draw(); }
  get linear() { return this.exactColour ?? linearOf(this.colour.value); }

  // ---- as an edit

  edit() {
    const out = { ...this.extra.edit }, expression = { ...this.extra.expression }, value = (name) => this.sliders.get(name);
    for (const [name] of POSE) if (value(name).moved) out[name] = value(name).value;
    for (const [name] of [...FACES, ...MORE]) if (value(name).moved) expression[name] = value(name).value;
    if (Object.keys(expression).length) out.expression = expression;
    if (this.lightMoved)
      out.light = { azimuth_deg: this.sphere.azimuth, elevation_deg: this.sphere.elevation, intensity: this.intensity.value, ambient: this.ambient.value, colour: this.linear, ...this.extra.light };
    if (value("strength").moved) out.strength = value("strength").value;
    return out;
  }

  // As a preset file: it has the names of copied traits, not the photos.
  preset() {
    const take = [...this.copied.map(([trait]) => trait), ...this.expected];
    return { ...(take.length ? { take } : {}), ...this.edit() };
  }

  named(trait) { return TRAITS.find(([name]) => name === trait)[1]; }
  get expected() { return TRAITS.map(([trait]) => trait).filter((trait) => this.sources[trait].expected); }
  get copied() { return TRAITS.map(([trait]) => [trait, this.sources[trait]]).filter(([, source]) => source.id); }
  get state() { return { edit: this.edit(), copied: this.copied.map(([trait, { id, file }]) => [trait, { id, file }]) }; }
  get nothing() { return isNothing(this.state); }
  label(name) { return this.sliders.get(name)?.label ?? OTHERS[name] ?? name; }
  achieved(numbers) { for (const [name, slider] of this.sliders) slider.achieved(numbers?.[name] ?? null); }

  // ---- set from an edit, from a face, from nothing

  // Number of fields applied; unknown fields are listed in `unknown`. Throws if the value is not a preset.
  apply(preset) {
    if (typeof preset !== "object" || preset === null || Array.isArray(preset)) throw new Error("not a preset");
    this.unknown = this.extra.take(preset, FIELDS);
    const expression = preset.expression ?? {}, known = [...POSE, ...FACES, ...MORE].map(([name]) => name);
    const fields = { ...preset, ...expression, strength: preset.strength };
    let found = Object.keys(this.extra.edit).length + Object.keys(this.extra.expression).length;
    for (const trait of preset.take ?? []) if (this.sources[trait]) { this.expectSource(trait); found++; } else this.unknown.push(`take: ${trait}`);
    for (const name of [...known, "strength"]) if (number(fields[name])) { this.sliders.get(name).set(fields[name]); found++; }
    const folded = MORE.some(([name]) => number(fields[name]));
    if (folded) get("expression-more").closest("details").open = true;
    if (preset.light) {
      const valid = Object.entries(preset.light).filter(([name, value]) => name === "colour" ? Array.isArray(value) : number(value));
      const light = { ...LAMP, ...Object.fromEntries(valid) };
      this.colour.value = hexOf(light.colour);
      this.exactColour = light.colour ?? null;
      this.intensity.set(light.intensity);
      this.ambient.set(light.ambient);
      this.lightMoved = true;
      this.sphere.turn(light.azimuth_deg, light.elevation_deg);
      found++;
    }
    return found;
  }

  // Set the sliders to the values of a face; with `keep`, changes stay.
  from(own = {}, keep = false) {
    const edit = keep ? this.edit() : {};
    for (const [name, slider] of this.sliders)
      if (!["strength", "intensity", "ambient"].includes(name)) slider.from(own[name]);
    this.sliders.get("strength").reset();
    this.extra.clear();
    this.lightMoved = false;
    this.colour.value = "#ffffff";
    this.exactColour = null;
    this.intensity.from(own.light_intensity ?? LAMP.intensity);
    this.ambient.from(own.light_ambient ?? LAMP.ambient);
    this.sphere.turn(own.light_azimuth_deg ?? LAMP.azimuth_deg, own.light_elevation_deg ?? LAMP.elevation_deg);
    this.own = own;
    if (keep) this.apply(edit); else for (const [trait] of TRAITS) this.clearSource(trait);
  }

  reset() { this.from(this.own); }

  restore({ edit, copied }) {
    this.apply(edit);
    for (const [trait, source] of copied) this.setSource(trait, source);
  }

  // ---- copying

  async chooseSource(trait, file) {
    const source = this.sources[trait];
    const analysis = file && await this.analyse(file);
    source.input.value = "";
    if (!analysis) return;
    this.setSource(trait, { id: analysis.picture, file });
    this.changed();
  }

  setSource(trait, { id, file }) {
    this.clearSource(trait);
    const source = Object.assign(this.sources[trait], { id, file });
    source.image.src = URL.createObjectURL(file);
    source.image.hidden = source.drop.hidden = false;
    source.button.classList.add("on");
    source.button.querySelector("small").textContent = "copied";
  }

  // Ask for the photo of a trait that a preset copies.
  expectSource(trait) {
    const source = this.sources[trait];
    if (source.id) return;
    source.expected = true;
    source.drop.hidden = false;
    source.button.classList.add("wanted");
    source.button.querySelector("small").textContent = "choose the photo";
  }

  clearSource(trait) {
    const source = this.sources[trait];
    if (source.image.src) URL.revokeObjectURL(source.image.src);
    source.id = source.file = null;
    source.expected = false;
    source.image.removeAttribute("src");
    source.image.hidden = source.drop.hidden = true;
    source.button.classList.remove("on", "wanted");
    source.button.querySelector("small").textContent = "choose a photo";
  }
}
