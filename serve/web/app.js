// Entry point of the editor: tabs, opening of files, presets, rendering.

import * as api from "./api.js";
import { element } from "./controls.js";
import { FacePicker } from "./faces.js";
import { LivePreview } from "./live_preview.js";
import { clearNotice, withRetries, setStatus, showError, tooLarge, onReconnect, write } from "./notice.js";
import { Panel } from "./panel.js";
import { Photo } from "./photo.js";
import { Viewer } from "./viewer.js";
import { Video } from "./video.js";

const get = (id) => document.getElementById(id);
const TABS = ["photo", "video"];
const service = { models: [], body_bytes: Infinity, clip_bytes: Infinity, jobs: false };

// Analyse the faces of a file; null after an error, which the page shows.
async function analyse(file, what) {
  clearNotice();
  if (tooLarge(file, service.body_bytes, "2000 pixels are enough")) return null;
  setStatus("Looking for faces …");
  document.body.classList.add("looking");
  try {
    const analysis = await withRetries(() => api.reconstruct(file));
    if (!analysis.faces.length) throw new Error(`No face was found in ${what === "frame" ? "this frame. Try another moment of the video" : "this photo. Try one with a larger or more frontal face"}.`);
    return analysis;
  } catch (error) { showError(error); return null; } finally {
    document.body.classList.remove("looking");
    setStatus("");
  }
}

const viewer = new Viewer((index) => { tab.choose(index); changed(); });
const panel = new Panel(changed, (file) => analyse(file, "source"));
const picker = new FacePicker(get("faces"), (index) => { tab.choose(index); changed(); });
const preview = new LivePreview(panel, viewer, picker);
const parts = { panel, viewer, preview, analyse, service };
const photo = new Photo(parts), video = new Video(parts, photo);
let tab = photo;

function changed() {
  tab.moved();
  preview.hold(false);
  ready();
  return preview.changed();
}

function ready() {
  get("controls").disabled = !tab.opened;
  get("render").disabled = tab === photo ? !photo.subject || Boolean(photo.painting) : !video.startable;
}

// ---- tabs

function enter(name, focus = false) {
  tab = name === "video" ? video : photo;
  for (const tab of TABS) {
    const on = tab === name, button = get(`tab-${tab}`);
    button.setAttribute("aria-selected", on);
    button.tabIndex = on ? 0 : -1;
    if (on && focus) button.focus();
  }
  document.body.dataset.tab = name;
  get("workspace").setAttribute("aria-labelledby", `tab-${name}`);
  get("open").textContent = name === "video" ? "Open a video" : "Open a photo";
  get("jobs-area").hidden = get("modes").hidden = get("mode-hint").hidden = name !== "video";
  if (name === "photo") { video.leave(); get("drop-clip").hidden = true; } else get("drop").hidden = get("below").hidden = get("download").hidden = true;
  preview.hold(false);
  clearNotice();
  setStatus("");
  get("render").textContent = name === "video" ? "Start job" : "Render";
  engine();
  tab.enter();
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
  await tab.open(file);
  ready();
}

const over = (on) => document.body.classList.toggle("over", on);
for (const [button, input] of [["drop", "file"], ["drop-clip", "clip-file"]]) get(button).addEventListener("click", () => get(input).click());
get("open").addEventListener("click", () => get(tab === video ? "clip-file" : "file").click());
for (const input of [get("file"), get("clip-file")]) input.addEventListener("change", () => { open(input.files[0]); input.value = ""; });
document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) over(false); });
document.addEventListener("drop", (event) => { event.preventDefault(); over(false); open(event.dataTransfer?.files[0]); });
document.addEventListener("paste", (event) => open(event.clipboardData?.files[0]));

// ---- presets

function save() {
  if (panel.nothing && !panel.expected.length) { setStatus("No changes yet, so there is nothing to save."); return; }
  const preset = panel.preset();
  const url = URL.createObjectURL(new Blob([JSON.stringify(preset, null, 2)], { type: "application/json" }));
  element("a", { href: url, download: "rigface-preset.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  if (preset.take) setStatus("Saved. The photos that traits are copied from are not in the file: choose them again after loading it.");
}

async function load(file) {
  if (get("controls").disabled) { showError(new Error("Open a photo before loading a preset.")); return; }
  clearNotice();
  try {
    const preset = JSON.parse(await file.text());
    panel.reset();
    if (!panel.apply(preset)) throw new Error("nothing in it");
    await changed();
    const { expected, unknown } = panel;
    if (unknown.length) showError(new Error(`Loaded. Ignored unknown or invalid fields: ${unknown.join(", ")}.`));
    if (expected.length) setStatus(`This preset copies ${expected.map((trait) => panel.named(trait).toLowerCase()).join(", ")} from another photo: choose it under "Copy from another photo".`);
  } catch { showError(new Error("This file is not a preset. Load a JSON file written by Save preset.")); }
}

get("preset-save").addEventListener("click", save);
get("preset-load").addEventListener("click", () => get("preset-file").click());
get("preset-file").addEventListener("change", async () => { await load(get("preset-file").files[0]); get("preset-file").value = ""; });
get("reset").addEventListener("click", () => { panel.reset(); changed(); });

// ---- rendering

function act() {
  if (get("render").disabled) return;
  const options = { model: get("model").value, seed: Number(get("seed").value) || 0, steps: get("painting").hidden ? null : Number(get("steps").value) || null };
  if (tab === video) video.start(options); else photo.render(options).finally(ready);
}

// Describe the chosen model.
function engine() {
  const model = service.models.find((m) => m.name === get("model").value);
  const samples = model && !["preview", "refiner"].includes(model.kind);
  get("painting").hidden = !samples;
  get("steps").value = model?.steps || "";
  get("engine").hidden = Boolean(samples);
  write(get("engine"), samples ? "" : model?.about ?? "");
}

get("model").addEventListener("change", engine);
get("render").addEventListener("click", act);
document.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) act(); });
get("notice-close").addEventListener("click", () => { get("notice").hidden = true; });
get("key-form").addEventListener("submit", (event) => { event.preventDefault(); api.useKey(get("key").value.trim()); clearNotice(); start(); });

async function start() {
  try {
    Object.assign(service, await withRetries(api.models));
    get("model").replaceChildren(...service.models.map((m) => element("option", { value: m.name, selected: m.default }, m.kind === "preview" ? "instant preview" : m.name)));
    engine();
    if (tab === video) video.hint(); else ready();
  } catch (error) { showError(error); }
}
onReconnect(() => { if (!service.models.length) start(); });
enter("photo");
start();
