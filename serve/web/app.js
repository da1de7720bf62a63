// The editor: state, and what happens when something is moved.

import * as api from "./api.js";
import { element, linearOf, Slider, Sphere } from "./controls.js";
import { Stage } from "./stage.js";

const get = (id) => document.getElementById(id);
const POSE = [["yaw_deg", "Turn", 60], ["pitch_deg", "Nod", 40], ["roll_deg", "Tilt", 40]];
const FACES = [["smile", "Smile", -0.5, 1.3], ["jaw_open", "Mouth open", 0, 1], ["brows_up", "Brows up", 0, 1], ["squint", "Squint", 0, 1], ["eyes_wide", "Eyes wide", 0, 1]];
const MORE = [["frown", "Frown", 0, 1], ["pucker", "Pucker", 0, 1], ["brows_down", "Brows down", 0, 1], ["blink", "Blink", 0, 1], ["blink_left", "Wink, their left", 0, 1], ["blink_right", "Wink, their right", 0, 1]];
const TRAITS = [["pose", "Pose"], ["expression", "Expression"], ["light", "Light"]];
const PRESETS = {
  "Smile": { expression: { smile: 0.8, squint: 0.2 } },
  "Look left": { yaw_deg: -22 },
  "Look right": { yaw_deg: 22 },
  "Surprise": { expression: { jaw_open: 0.55, brows_up: 0.9, eyes_wide: 0.8 } },
  "Side light": { light: { azimuth_deg: 65, elevation_deg: 25, intensity: 1.1, ambient: 0.18 } },
  "Soft light": { light: { azimuth_deg: 10, elevation_deg: 30, intensity: 0.35, ambient: 0.85 } },
};
const MAX_SIDE = 1024;

const state = { file: null, url: "", seen: null, face: 0, lightMoved: false, givers: {}, history: [], shown: null, painting: null, blob: null };
const sliders = new Map();

// ---- building the panel

function add(place, options) {
  const slider = new Slider(options, changed);
  sliders.set(options.name, slider);
  get(place).append(slider.root);
  return slider;
}
for (const [name, label, limit] of POSE) add("pose", { name, label, min: -limit, max: limit, step: 1, unit: "°" });
for (const [list, place] of [[FACES, "expression"], [MORE, "expression-more"]])
  for (const [name, label, min, max] of list) add(place, { name, label, min, max });
const lightMoved = () => { state.lightMoved = true; sphere.draw(); };
const intensity = add("light", { name: "intensity", label: "Lamp", min: 0, max: 2, own: 0.8 });
const ambient = add("light", { name: "ambient", label: "Ambient", min: 0, max: 1.5, own: 0.4 });
for (const s of [intensity, ambient]) s.input.addEventListener("input", lightMoved, { capture: true });
const colour = element("input", { type: "color", id: "colour", value: "#ffffff", oninput: () => { lightMoved(); changed(); } });
get("light").append(element("label", { class: "colour", for: "colour" }, "Colour", colour));
add("whole", { name: "strength", label: "Strength", min: 0, max: 1.5, own: 1 });
const sphere = new Sphere(get("sphere"), () => {
  state.lightMoved = true;
  if (intensity.value < 0.15) intensity.set(0.6); // moving a lamp that is out would show nothing
  sphere.draw();
  changed();
});
sphere.strength = () => ({ intensity: intensity.value, ambient: ambient.value, colour: linearOf(colour.value) });
sphere.draw();
for (const [name, edit] of Object.entries(PRESETS))
  get("presets").append(element("button", { type: "button", class: "chip", onclick: () => { reset(); apply(edit); changed(); } }, name));
for (const [trait, label] of TRAITS) {
  const input = element("input", { type: "file", accept: "image/*", class: "hidden", tabindex: -1, "aria-label": `Photo to copy ${label.toLowerCase()} from`, onchange: () => give(trait, input.files[0]) });
  const image = element("img", { alt: "", hidden: true });
  const button = element("button", { type: "button", class: "giver", onclick: () => input.click() }, image, element("span", {}, label), element("small", {}, "choose a photo"));
  const drop = element("button", { type: "button", class: "plain", hidden: true, "aria-label": `Do not copy ${label.toLowerCase()}`, onclick: () => { ungive(trait); changed(); } }, "×");
  const card = element("div", { class: "give", ondragover: over, ondrop: (event) => { event.preventDefault(); event.stopPropagation(); give(trait, event.dataTransfer.files[0]); } }, button, drop, input);
  state.givers[trait] = { id: null, image, drop, input, button };
  get("givers").append(card);
}

const stage = new Stage((index) => choose(index));

// ---- the edit, as the service reads it

function edit() {
  const out = {}, expression = {};
  for (const [name] of POSE) if (sliders.get(name).moved) out[name] = sliders.get(name).value;
  for (const [name] of [...FACES, ...MORE]) if (sliders.get(name).moved) expression[name] = sliders.get(name).value;
  if (Object.keys(expression).length) out.expression = expression;
  if (state.lightMoved)
    out.light = { azimuth_deg: sphere.azimuth, elevation_deg: sphere.elevation, intensity: intensity.value, ambient: ambient.value, colour: linearOf(colour.value) };
  if (sliders.get("strength").moved) out.strength = sliders.get("strength").value;
  return out;
}

function apply(preset) {
  for (const [name] of POSE) if (preset[name] != null) sliders.get(name).set(preset[name]);
  for (const [name, value] of Object.entries(preset.expression ?? {})) sliders.get(name)?.set(value);
  if (preset.strength != null) sliders.get("strength").set(preset.strength);
  if (preset.light) {
    const light = { azimuth_deg: 0, elevation_deg: 20, intensity: 0.8, ambient: 0.4, ...preset.light };
    intensity.set(light.intensity);
    ambient.set(light.ambient);
    state.lightMoved = true;
    sphere.turn(light.azimuth_deg, light.elevation_deg);
  }
}

function reset() {
  const own = state.seen?.faces[state.face]?.numbers ?? {};
  for (const [name, slider] of sliders) if (name === "strength") slider.reset(); else if (!["intensity", "ambient"].includes(name)) slider.from(own[name]);
  state.lightMoved = false;
  colour.value = "#ffffff";
  intensity.from(own.light_intensity ?? 0.8);
  ambient.from(own.light_ambient ?? 0.4);
  sphere.turn(own.light_azimuth_deg ?? 0, own.light_elevation_deg ?? 20);
  for (const [trait] of TRAITS) ungive(trait);
}

function body() {
  const targets = Object.fromEntries(TRAITS.filter(([t]) => state.givers[t].id).map(([t]) => [t, { id: state.givers[t].id }]));
  return { picture: { id: state.seen.picture }, face: state.face, edit: edit(), ...(Object.keys(targets).length ? { targets } : {}) };
}
const nothing = () => !Object.keys(edit()).some((k) => k !== "strength") && !TRAITS.some(([t]) => state.givers[t].id);

// ---- the preview follows the sliders: one request under way, then the latest wish

let following = false, again = false;
async function changed() {
  if (!state.seen?.faces.length) return;
  state.shown = null;
  get("download").hidden = true;
  if (following) { again = true; return; }
  following = true;
  try {
    do {
      again = false;
      if (nothing()) { stage.show(state.url, ""); say("As photographed."); continue; }
      const began = performance.now();
      const { image } = await sending(() => api.preview({ ...body(), max_side: side() }));
      if (state.shown || state.painting) continue;
      replace(image, "preview");
      say(`Preview in ${Math.round(performance.now() - began)} ms.`);
    } while (again);
  } catch (error) { tell(error); } finally { following = false; }
}
const side = () => Math.min(MAX_SIDE, Math.max(256, 64 * Math.ceil((Math.max(get("plate").clientWidth, get("plate").clientHeight) * Math.min(2, devicePixelRatio)) / 64)));

// A service that has forgotten a picture is sent it anew.
async function sending(work) {
  try { return await work(); } catch (error) {
    if (error.slug !== "unknown-picture") throw error;
    for (const file of [state.file, ...TRAITS.map(([t]) => state.givers[t].file)]) if (file) await api.reconstruct(file);
    return work();
  }
}

let previous = "";
function replace(blob, tag) {
  const url = URL.createObjectURL(blob);
  stage.show(url, tag);
  if (previous) { const old = previous; setTimeout(() => URL.revokeObjectURL(old), 1000); }
  previous = url;
}

// ---- opening

async function open(file) {
  if (!file) return;
  hush();
  say("Looking for faces …");
  document.body.classList.add("looking");
  try {
    const seen = await api.reconstruct(file);
    if (!seen.faces.length) throw new Error("No face was found in this photo. Try one where the face is larger, or seen more from the front.");
    if (state.url) URL.revokeObjectURL(state.url);
    Object.assign(state, { file, seen, url: URL.createObjectURL(file), history: [], shown: null });
    stage.open(state.url, seen);
    get("controls").disabled = get("render").disabled = false;
    get("below").hidden = get("reached").hidden = true;
    const sizes = seen.faces.map((f) => (f.box[2] - f.box[0]) * (f.box[3] - f.box[1]));
    choose(sizes.indexOf(Math.max(...sizes)));
    say(seen.faces.length === 1 ? "One face. Move a slider." : `${seen.faces.length} faces. Choose one in the picture, then move a slider.`);
    remember({ url: state.url, label: "Photograph", edit: {} });
  } catch (error) { tell(error); say(""); } finally { document.body.classList.remove("looking"); }
}

function choose(index) {
  state.face = index;
  stage.choose(index);
  reset();
  changed();
}

async function give(trait, file) {
  if (!file) return;
  hush();
  const giver = state.givers[trait];
  try {
    const seen = await api.reconstruct(file);
    if (!seen.faces.length) throw new Error("No face was found in the photo to copy from.");
    giver.id = seen.picture;
    giver.file = file;
    giver.image.src = URL.createObjectURL(file);
    giver.image.hidden = giver.drop.hidden = false;
    giver.button.classList.add("on");
    giver.button.querySelector("small").textContent = "copied";
    changed();
  } catch (error) { tell(error); } finally { giver.input.value = ""; }
}

function ungive(trait) {
  const giver = state.givers[trait];
  if (giver.image.src) URL.revokeObjectURL(giver.image.src);
  giver.id = giver.file = null;
  giver.image.removeAttribute("src");
  giver.image.hidden = giver.drop.hidden = true;
  giver.button.classList.remove("on");
  giver.button.querySelector("small").textContent = "choose a photo";
}

// ---- rendering

async function render() {
  if (state.painting || !state.seen) return;
  hush();
  const abort = (state.painting = new AbortController()), asked = edit();
  get("render").disabled = true;
  get("progress").hidden = false;
  progress({ phase: "look", step: 0, steps: 1 });
  try {
    const wish = { ...body(), model: get("model").value || null, previews: 4, format: "png" };
    const run = async () => {
      for await (const { name, data } of api.edit(wish, abort.signal)) {
        if (name === "progress") progress(data);
        if (name === "result") finish(data, asked);
      }
    };
    await sending(run);
  } catch (error) { if (error.name !== "AbortError") tell(error); else say("Cancelled."); } finally {
    state.painting = null;
    get("render").disabled = false;
    get("progress").hidden = true;
    get("progress-image").hidden = true;
  }
}

function progress({ phase, step, steps, preview }) {
  get("bar").max = Math.max(1, steps);
  if (step || !steps) get("bar").value = step; else get("bar").removeAttribute("value");
  get("progress-text").textContent = phase === "paint" ? `Step ${step} of ${steps}` : phase === "preview" ? "Measuring the preview" : "Looking";
  if (preview) {
    get("progress-image").src = `data:image/jpeg;base64,${preview}`;
    get("progress-image").hidden = false;
  }
}

function finish(result, asked) {
  const blob = api.blobOf(result.image, result.media_type), url = URL.createObjectURL(blob);
  remember({ url, label: result.model, edit: asked, result, givers: TRAITS.filter(([t]) => state.givers[t].id).length });
  recall(state.history.length - 1, false);
  say(`Rendered in ${result.seconds.total.toFixed(1)} s by ${result.model}, seed ${result.seed}.`);
}

// ---- history

function remember(entry) {
  state.history.push(entry);
  const index = state.history.length - 1;
  if (index === 0) get("history").replaceChildren();
  const button = element("button", { type: "button", "aria-label": index ? `Result ${index}, ${entry.label}` : "Photograph", onclick: () => recall(index, true) },
    element("img", { src: entry.url, alt: "" }), element("span", {}, index ? `${index} · ${entry.label}` : "Photograph"));
  get("history").append(element("li", {}, button));
  get("below").hidden = false;
  get("history").scrollLeft = get("history").scrollWidth;
}

function recall(index, restore) {
  const entry = state.history[index];
  if (restore) { const givers = Object.fromEntries(TRAITS.map(([t]) => [t, state.givers[t].id])); if (!Object.values(givers).some(Boolean)) { reset(); apply(entry.edit); } }
  state.shown = entry;
  stage.show(entry.url, entry.result ? entry.label : "");
  [...get("history").children].forEach((item, i) => item.firstChild.setAttribute("aria-current", i === index));
  reach(entry.result);
  const link = get("download");
  link.hidden = !entry.result;
  if (entry.result) { link.href = entry.url; link.download = `rigface-${index}.png`; }
}

function reach(result) {
  get("reached").hidden = !result;
  for (const slider of sliders.values()) slider.achieved(null);
  if (!result) return;
  const asked = result.asked[0] ?? {}, got = result.achieved[0];
  const labels = new Map([...sliders].map(([name, slider]) => [name, slider]));
  get("reached-rows").replaceChildren(...Object.keys(asked).map((name) => {
    const slider = labels.get(name), unit = name.endsWith("_deg") ? "°" : "";
    const digits = unit ? 1 : 2, text = (v) => (v == null ? "–" : `${v.toFixed(digits).replace("-", "−")}${unit}`);
    const label = slider?.label ?? { light_azimuth_deg: "Light, sideways", light_elevation_deg: "Light, height", exposure: "Exposure" }[name] ?? name;
    if (got) slider?.achieved(got[name]);
    const off = got ? Math.min(1, Math.abs(got[name] - asked[name]) / (unit ? 15 : 0.5)) : 0;
    const gauge = element("i", { class: "gauge" });
    gauge.style.setProperty("--off", off);
    return element("tr", {}, element("th", { scope: "row" }, label), element("td", { class: "number" }, text(asked[name])), element("td", { class: "number" }, text(got?.[name])), element("td", {}, got ? gauge : ""));
  }));
  get("reached-foot").textContent = got ? "Measured on the result by looking at it again. The bar is the distance." : "No face was found in the result.";
  if (!Object.keys(asked).length) get("reached-foot").textContent = "Nothing was asked for.";
}

// ---- words

function say(text) { get("status").textContent = text; }
function tell(error) {
  get("notice").hidden = false;
  get("notice-text").textContent = error.message || "Something went wrong.";
  get("key-form").hidden = error.slug !== "unauthorized";
}
function hush() { get("notice").hidden = true; }

// ---- wiring

function over(event) { event.preventDefault(); document.body.classList.add("over"); }
get("open").addEventListener("click", () => get("file").click());
get("drop").addEventListener("click", () => get("file").click());
get("file").addEventListener("change", () => { open(get("file").files[0]); get("file").value = ""; });
document.addEventListener("dragover", over);
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("over"); if (event.dataTransfer?.files[0]) open(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { const file = event.clipboardData?.files[0]; if (file) open(file); });
get("render").addEventListener("click", render);
get("cancel").addEventListener("click", () => state.painting?.abort());
get("reset").addEventListener("click", () => { reset(); changed(); });
get("notice-close").addEventListener("click", hush);
get("key-form").addEventListener("submit", (event) => { event.preventDefault(); api.useKey(get("key").value.trim()); hush(); start(); });
get("preset-save").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([JSON.stringify(edit(), null, 2)], { type: "application/json" }));
  element("a", { href: url, download: "rigface-preset.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
get("preset-load").addEventListener("click", () => get("preset-file").click());
get("preset-file").addEventListener("change", async () => {
  try { const preset = JSON.parse(await get("preset-file").files[0].text()); reset(); apply(preset); changed(); } catch { tell(new Error("This file is not a preset.")); }
  get("preset-file").value = "";
});
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) render(); });

async function start() {
  try {
    const models = await api.models();
    get("model").replaceChildren(...models.map((m) => element("option", { value: m.name, selected: m.default }, m.name === "preview" ? "preview (no network)" : m.name)));
  } catch (error) { tell(error); }
}
start();
