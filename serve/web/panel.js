// The controls: every slider, the lamp, the photos to copy from; read as an edit, and set from one.

import { element, linearOf, hexOf, Slider, Sphere } from "./controls.js";
import { Kept } from "./kept.js";

const get = (id) => document.getElementById(id);
const POSE = [["yaw_deg", "Turn", 60], ["pitch_deg", "Nod", 40], ["roll_deg", "Tilt", 40]];
const FACES = [["smile", "Smile", -0.5, 1.3], ["jaw_open", "Mouth open", 0, 1], ["brows_up", "Brows up", 0, 1], ["squint", "Squint", 0, 1], ["eyes_wide", "Eyes wide", 0, 1]];
const MORE = [["frown", "Frown", 0, 1], ["pucker", "Pucker", 0, 1], ["brows_down", "Brows down", 0, 1], ["blink", "Blink", 0, 1], ["blink_left", "Wink, their left", 0, 1], ["blink_right", "Wink, their right", 0, 1]];
const TRAITS = [["pose", "Pose"], ["expression", "Expression"], ["light", "Light"], ["shape", "Face shape"], ["identity", "Identity"]];
const HINTS = { shape: "the form of the head, not the skin", identity: "form and skin: who it is" };
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

export class Panel {
  // `changed` is told of every move; `look` takes a file and gives what was seen in it.
  constructor(changed, look) {
    Object.assign(this, { changed, look, sliders: new Map(), givers: {}, lightMoved: false, exactColour: null, unknown: [] });
    this.kept = new Kept([...FACES, ...MORE].map(([name]) => name), changed);
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
      if (this.intensity.value < 0.15) this.intensity.set(0.6); // moving a lamp that is out would show nothing
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
    const input = element("input", { type: "file", accept: "image/*", class: "hidden", tabindex: -1, "aria-label": `Photo to copy the ${low} from`, onchange: () => this.give(trait, input.files[0]) });
    const image = element("img", { alt: "", hidden: true });
    const button = element("button", { type: "button", class: "giver", "aria-label": `Copy the ${low} from a photo`, title: HINTS[trait] ?? null, onclick: () => input.click() }, image, element("span", {}, label), element("small", {}, "choose a photo"));
    const drop = element("button", { type: "button", class: "plain", hidden: true, "aria-label": `Do not copy the ${low}`, onclick: () => { this.ungive(trait); this.changed(); button.focus(); } }, "×");
    const dropped = (event) => { event.preventDefault(); event.stopPropagation(); document.body.classList.remove("over"); this.give(trait, event.dataTransfer.files[0]); };
    get("givers").append(element("div", { class: "give", ondrop: dropped }, button, drop, input));
    this.givers[trait] = { id: null, file: null, wanted: false, image, drop, input, button };
  }

  lit() { this.lightMoved = true; this.kept.moved(); this.sphere.draw(); }
  get linear() { return this.exactColour ?? linearOf(this.colour.value); }

  // ---- as the service reads it

  edit() {
    const out = { ...this.kept.edit }, expression = { ...this.kept.expression }, value = (name) => this.sliders.get(name);
    for (const [name] of POSE) if (value(name).moved) out[name] = value(name).value;
    for (const [name] of [...FACES, ...MORE]) if (value(name).moved) expression[name] = value(name).value;
    if (Object.keys(expression).length) out.expression = expression;
    if (this.lightMoved)
      out.light = { azimuth_deg: this.sphere.azimuth, elevation_deg: this.sphere.elevation, intensity: this.intensity.value, ambient: this.ambient.value, colour: this.linear, ...this.kept.light };
    if (value("strength").moved) out.strength = value("strength").value;
    return out;
  }

  // As a file has it: the photos themselves are not in it, only that something is copied.
  preset() {
    const take = [...this.given.map(([trait]) => trait), ...this.wanted];
    return { ...(take.length ? { take } : {}), ...this.edit() };
  }

  named(trait) { return TRAITS.find(([name]) => name === trait)[1]; }
  get wanted() { return TRAITS.map(([trait]) => trait).filter((trait) => this.givers[trait].wanted); }
  get given() { return TRAITS.map(([trait]) => [trait, this.givers[trait]]).filter(([, giver]) => giver.id); }
  get targets() { return Object.fromEntries(this.given.map(([trait, giver]) => [trait, { id: giver.id }])); }
  get nothing() { return !Object.keys(this.edit()).some((name) => !["strength", "relative", "region"].includes(name)) && !this.given.length; }
  label(name) { return this.sliders.get(name)?.label ?? OTHERS[name] ?? name; }
  achieved(numbers) { for (const [name, slider] of this.sliders) slider.achieved(numbers?.[name] ?? null); }

  // ---- set from an edit, from a face, from nothing

  // How much was found. Raises where the value is no edit; what nobody knows is in `unknown`, and left out.
  apply(preset) {
    if (typeof preset !== "object" || preset === null || Array.isArray(preset)) throw new Error("not a preset");
    this.unknown = this.kept.take(preset, FIELDS);
    const expression = preset.expression ?? {}, known = [...POSE, ...FACES, ...MORE].map(([name]) => name);
    const wanted = { ...preset, ...expression, strength: preset.strength };
    let found = Object.keys(this.kept.edit).length + Object.keys(this.kept.expression).length;
    for (const trait of preset.take ?? []) if (this.givers[trait]) { this.want(trait); found++; } else this.unknown.push(`take: ${trait}`);
    for (const name of [...known, "strength"]) if (number(wanted[name])) { this.sliders.get(name).set(wanted[name]); found++; }
    const folded = MORE.some(([name]) => number(wanted[name]));
    if (folded) get("expression-more").closest("details").open = true;
    if (preset.light) {
      const said = Object.entries(preset.light).filter(([name, value]) => name === "colour" ? Array.isArray(value) : number(value));
      const light = { ...LAMP, ...Object.fromEntries(said) };
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

  // Where the face itself stands; what was moved stays moved where `keep` is given.
  from(own = {}, keep = false) {
    const edit = keep ? this.edit() : {};
    for (const [name, slider] of this.sliders)
      if (!["strength", "intensity", "ambient"].includes(name)) slider.from(own[name]);
    this.sliders.get("strength").reset();
    this.kept.clear();
    this.lightMoved = false;
    this.colour.value = "#ffffff";
    this.exactColour = null;
    this.intensity.from(own.light_intensity ?? LAMP.intensity);
    this.ambient.from(own.light_ambient ?? LAMP.ambient);
    this.sphere.turn(own.light_azimuth_deg ?? LAMP.azimuth_deg, own.light_elevation_deg ?? LAMP.elevation_deg);
    this.own = own;
    if (keep) this.apply(edit); else for (const [trait] of TRAITS) this.ungive(trait);
  }

  reset() { this.from(this.own); }

  // ---- copying

  async give(trait, file) {
    const giver = this.givers[trait];
    const seen = file && await this.look(file);
    giver.input.value = "";
    if (!seen) return;
    this.gave(trait, { id: seen.picture, file });
    this.changed();
  }

  gave(trait, { id, file }) {
    this.ungive(trait);
    const giver = Object.assign(this.givers[trait], { id, file });
    giver.image.src = URL.createObjectURL(file);
    giver.image.hidden = giver.drop.hidden = false;
    giver.button.classList.add("on");
    giver.button.querySelector("small").textContent = "copied";
  }

  // A preset copies it, from a photo that is not in the file.
  want(trait) {
    const giver = this.givers[trait];
    if (giver.id) return;
    giver.wanted = true;
    giver.drop.hidden = false;
    giver.button.classList.add("wanted");
    giver.button.querySelector("small").textContent = "choose the photo";
  }

  ungive(trait) {
    const giver = this.givers[trait];
    if (giver.image.src) URL.revokeObjectURL(giver.image.src);
    giver.id = giver.file = null;
    giver.wanted = false;
    giver.image.removeAttribute("src");
    giver.image.hidden = giver.drop.hidden = true;
    giver.button.classList.remove("on", "wanted");
    giver.button.querySelector("small").textContent = "choose a photo";
  }
}
