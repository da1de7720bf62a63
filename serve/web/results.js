// History of results, and the table of asked and achieved values.

import { element } from "./controls.js";

const get = (id) => document.getElementById(id);
const FULL_SCALE = { "°": 15, "": 0.5 }; // a difference that fills the gauge

export class Results {
  // `recalled` is called with the entry that is shown.
  constructor(panel, recalled) { Object.assign(this, { panel, recalled, entries: [] }); }

  begin(subject) {
    for (const entry of this.entries.slice(1)) URL.revokeObjectURL(entry.url);
    this.entries = [];
    get("history").replaceChildren();
    this.subject = subject;
    this.remember({ url: subject.url, label: "Photograph", edits: new Map() });
    this.leave();
  }

  remember(entry) {
    const index = this.entries.push(entry) - 1;
    const name = index ? `${index} · ${entry.label}` : entry.label;
    const button = element("button", { type: "button", "aria-label": index ? `Result ${index}, ${entry.label}` : entry.label, onclick: () => this.recall(index, true) },
      element("img", { src: entry.url, alt: "" }), element("span", {}, name));
    get("history").append(element("li", {}, button));
  }

  get latest() { return this.entries.length - 1; }

  // Show an entry; with `restore`, with its edits.
  recall(index, restore) {
    const entry = this.entries[index];
    if (restore) {
      this.subject.edits = new Map(entry.edits);
      this.subject.show(this.panel);
    }
    this.select(index);
    showAchieved(this.panel, entry.result, [...entry.edits.keys()].sort((a, b) => a - b), this.subject.face);
    const list = get("history"), item = list.children[index]; // after the table changed the layout
    list.scrollLeft = item.offsetLeft - (list.clientWidth - item.offsetWidth) / 2;
    const link = get("download");
    link.hidden = !entry.result;
    if (entry.result) { link.href = entry.url; link.download = `rigface-${index}.${entry.result.media_type.split("/")[1]}`; }
    this.recalled(entry);
  }

  // Deselect the history.
  leave() {
    this.select(-1);
    showAchieved(this.panel, null);
    get("download").hidden = true;
  }

  select(index) { [...get("history").children].forEach((item, i) => item.firstChild.setAttribute("aria-current", i === index)); }
}

// Sentences of the warnings of an edit, with the ranges that would hold.
export function remarks(warnings) {
  const range = ([name, [low, high]]) => `${name.replace("_deg", "").replace("_", " ")} ${low} to ${high}`.replaceAll("-", "−");
  return (warnings ?? []).flat().map(({ text, holds }) => [text, ...Object.entries(holds).map((one) => `It would hold for ${range(one)}.`)].join(" "));
}

// Fill the table of asked and achieved values; null hides it. `faces`: numbers of the edited faces, `chosen`: that of
// the face in the panel.
export function showAchieved(panel, result, faces = [], chosen = 0) {
  const many = result?.asked.length > 1, place = Math.max(0, faces.indexOf(chosen));
  get("achieved").hidden = !result;
  panel.achieved(result?.achieved[place]);
  if (!result) return;
  get("achieved-rows").replaceChildren(...result.asked.flatMap((asked, n) => [
    ...(many ? [element("tr", {}, element("th", { colspan: 4, scope: "rowgroup", class: "foot" }, `Face ${(faces[n] ?? n) + 1}`))] : []),
    ...rowsOf(panel, asked, result.achieved[n])]));
  const none = !result.asked.some((asked) => Object.keys(asked).length), lost = !result.achieved.every(Boolean);
  get("achieved-warnings").replaceChildren(...remarks(result.warnings).map((text) => element("li", {}, text)));
  get("achieved-foot").textContent = none ? "Nothing was changed." : lost ? "No face was found in the result, so nothing could be measured." : "Measured on the result. The bar is the difference.";
}

function rowsOf(panel, asked, got) {
  return Object.entries(asked).map(([name, value]) => {
    const unit = name.endsWith("_deg") ? "°" : "", now = got?.[name];
    const text = (v) => (v == null ? "–" : `${v.toFixed(unit ? 1 : 2).replace("-", "−")}${unit}`);
    const gauge = element("i", { class: "gauge" });
    gauge.style.setProperty("--off", now == null ? 0 : Math.min(1, Math.abs(now - value) / FULL_SCALE[unit]));
    return element("tr", {}, element("th", { scope: "row" }, panel.label(name)), element("td", { class: "number" }, text(value)), element("td", { class: "number" }, text(now)), element("td", {}, now == null ? "" : gauge));
  });
}
