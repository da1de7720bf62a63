// The editor: two tabs over one stage and one panel, and where files go that are opened, dropped or pasted.

import * as api from "./api.js";
import { element } from "./controls.js";
import { Follow } from "./follow.js";
import { hush, patiently, say, tell, tooLarge, whenBack, write } from "./notice.js";
import { Panel } from "./panel.js";
import { Photo } from "./photo.js";
import { Stage } from "./stage.js";
import { Video } from "./video.js";

const get = (id) => document.getElementById(id);
const TABS = ["photo", "video"];
const service = { models: [], body_bytes: Infinity, clip_bytes: Infinity, jobs: false };

// What the service sees in a file, or null: then the page has said why.
async function look(file, what) {
  hush();
  if (tooLarge(file, service.body_bytes, "2000 pixels are plenty")) return null;
  say("Looking for faces …");
  document.body.classList.add("looking");
  try {
    const seen = await patiently(() => api.reconstruct(file));
    if (!seen.faces.length) throw new Error(`No face was found in ${what === "frame" ? "this frame; try another moment of the clip" : "this photo. Try one where the face is larger, or seen more from the front"}.`);
    return seen;
  } catch (error) { tell(error); return null; } finally {
    document.body.classList.remove("looking");
    say("");
  }
}

const stage = new Stage((index) => { bench.choose(index); changed(); });
const panel = new Panel(changed, (file) => look(file, "giver"));
const follow = new Follow(panel, stage);
const parts = { panel, stage, follow, look, service };
const photo = new Photo(parts), video = new Video(parts, photo);
let bench = photo;

function changed() {
  bench.moved();
  follow.hold(false);
  ready();
  return follow.changed();
}

function ready() {
  get("controls").disabled = !bench.opened;
  get("render").disabled = bench === photo ? !photo.subject || Boolean(photo.painting) : !video.startable;
}

// ---- tabs

function enter(name, focus = false) {
  bench = name === "video" ? video : photo;
  for (const tab of TABS) {
    const on = tab === name, button = get(`tab-${tab}`);
    button.setAttribute("aria-selected", on);
    button.tabIndex = on ? 0 : -1;
    if (on && focus) button.focus();
  }
  document.body.dataset.tab = name;
  get("bench").setAttribute("aria-labelledby", `tab-${name}`);
  get("open").textContent = name === "video" ? "Open a video" : "Open a photo";
  get("jobs-area").hidden = get("modes").hidden = get("mode-hint").hidden = name !== "video";
  if (name === "photo") { video.leave(); get("drop-clip").hidden = true; } else get("drop").hidden = get("below").hidden = get("download").hidden = true;
  follow.hold(false);
  hush();
  say("");
  get("render").textContent = name === "video" ? "Start the job" : "Render";
  engine();
  bench.enter();
  ready();
}

for (const [index, name] of TABS.entries()) {
  get(`tab-${name}`).addEventListener("click", () => enter(name));
  get(`tab-${name}`).addEventListener("keydown", (event) => {
    if (["ArrowLeft", "ArrowRight"].includes(event.key)) enter(TABS[1 - index], true);
  });
}

// ---- files

async function open(file) {
  if (!file) return;
  if (file.type === "application/json" || file.name.endsWith(".json")) return load(file);
  const name = file.type.startsWith("video/") || /\.(mkv|mov|mp4|m4v|webm|avi)$/i.test(file.name) ? "video" : "photo";
  if (document.body.dataset.tab !== name) enter(name);
  await bench.open(file);
  ready();
}

const over = (on) => document.body.classList.toggle("over", on);
for (const [button, input] of [["drop", "file"], ["drop-clip", "clip-file"]]) get(button).addEventListener("click", () => get(input).click());
get("open").addEventListener("click", () => get(bench === video ? "clip-file" : "file").click());
for (const input of [get("file"), get("clip-file")]) input.addEventListener("change", () => { open(input.files[0]); input.value = ""; });
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => { event.preventDefault(); over(false); open(event.dataTransfer?.files[0]); });
document.addEventListener("paste", (event) => open(event.clipboardData?.files[0]));

// ---- presets

function save() {
  if (panel.nothing && !panel.wanted.length) { say("Nothing is moved yet, so there is nothing to save."); return; }
  const preset = panel.preset();
  const url = URL.createObjectURL(new Blob([JSON.stringify(preset, null, 2)], { type: "application/json" }));
  element("a", { href: url, download: "rigface-preset.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  if (preset.take) say("Saved. The photos that traits are copied from are not in the file: choose them again after loading it.");
}

async function load(file) {
  if (get("controls").disabled) { tell(new Error("Open a photo first; then the preset can be seen on it.")); return; }
  hush();
  try {
    const preset = JSON.parse(await file.text());
    panel.reset();
    if (!panel.apply(preset)) throw new Error("nothing in it");
    await changed();
    const { wanted, unknown } = panel;
    if (unknown.length) tell(new Error(`Loaded, but for what no edit has, or not so: ${unknown.join(", ")}.`));
    if (wanted.length) say(`This preset copies ${wanted.map((trait) => panel.named(trait).toLowerCase()).join(", ")} from another photo: choose it under "Copy from another photo".`);
  } catch { tell(new Error("This file is not a preset. A preset is what Save preset writes: JSON with the numbers of an edit.")); }
}

get("preset-save").addEventListener("click", save);
get("preset-load").addEventListener("click", () => get("preset-file").click());
get("preset-file").addEventListener("change", async () => { await load(get("preset-file").files[0]); get("preset-file").value = ""; });
get("reset").addEventListener("click", () => { panel.reset(); changed(); });

// ---- rendering

function act() {
  if (get("render").disabled) return;
  const options = { model: get("model").value, seed: Number(get("seed").value) || 0, steps: get("painting").hidden ? null : Number(get("steps").value) || null };
  if (bench === video) video.start(options); else photo.render(options).finally(ready);
}

// What paints, said plainly.
function engine() {
  const model = service.models.find((m) => m.name === get("model").value);
  get("painting").hidden = !model || model.kind === "preview";
  get("steps").value = model?.steps || "";
  get("engine").hidden = model?.kind !== "preview";
  write(get("engine"), model?.kind === "preview" ? model.about : "");
}

get("model").addEventListener("change", engine);
get("render").addEventListener("click", act);
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(); });
get("notice-close").addEventListener("click", () => { get("notice").hidden = true; });
get("key-form").addEventListener("submit", (event) => { event.preventDefault(); api.useKey(get("key").value.trim()); hush(); start(); });

async function start() {
  try {
    Object.assign(service, await patiently(api.models));
    get("model").replaceChildren(...service.models.map((m) => element("option", { value: m.name, selected: m.default }, m.kind === "preview" ? "instant preview" : m.name)));
    engine();
    if (bench === video) video.hint(); else ready();
  } catch (error) { tell(error); }
}
whenBack(() => { if (!service.models.length) start(); });
enter("photo");
start();
