// What was made of a photo: one after the other in the history, and what was reached of what was asked.

import { element } from "./controls.js";

const get = (id) => document.getElementById(id);
const FAR = { "°": 15, "": 0.5 }; // a difference that fills the gauge

export class Results {
  // `recalled` is told of the entry that is looked at.
  constructor(panel, recalled) { Object.assign(this, { panel, recalled, entries: [] }); }

  begin(url) {
    for (const entry of this.entries.slice(1)) URL.revokeObjectURL(entry.url);
    this.entries = [];
    get("history").replaceChildren();
    this.remember({ url, label: "Photograph", edit: {}, given: [] });
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

  // An entry on the stage; with `restore`, the sliders as they were for it.
  recall(index, restore) {
    const entry = this.entries[index];
    if (restore) {
      this.panel.reset();
      this.panel.apply(entry.edit);
      for (const [trait, giver] of entry.given) this.panel.gave(trait, giver);
    }
    this.mark(index);
    reach(this.panel, entry.result);
    const shelf = get("history"), item = shelf.children[index]; // after the table has taken its room
    shelf.scrollLeft = item.offsetLeft - (shelf.clientWidth - item.offsetWidth) / 2;
    const link = get("download");
    link.hidden = !entry.result;
    if (entry.result) { link.href = entry.url; link.download = `rigface-${index}.${entry.result.media_type.split("/")[1]}`; }
    this.recalled(entry);
  }

  // Nothing of the history is on the stage any more.
  leave() {
    this.mark(-1);
    reach(this.panel, null);
    get("download").hidden = true;
  }

  mark(index) { [...get("history").children].forEach((item, i) => item.firstChild.setAttribute("aria-current", i === index)); }
}

// The table of what was asked and achieved, for the first face; null takes it away.
export function reach(panel, result) {
  const asked = result?.asked[0] ?? {}, got = result?.achieved[0];
  get("reached").hidden = !result;
  panel.achieved(got);
  if (!result) return;
  get("reached-rows").replaceChildren(...Object.entries(asked).map(([name, wish]) => {
    const unit = name.endsWith("_deg") ? "°" : "", now = got?.[name];
    const text = (v) => (v == null ? "–" : `${v.toFixed(unit ? 1 : 2).replace("-", "−")}${unit}`);
    const gauge = element("i", { class: "gauge" });
    gauge.style.setProperty("--off", now == null ? 0 : Math.min(1, Math.abs(now - wish) / FAR[unit]));
    return element("tr", {}, element("th", { scope: "row" }, panel.label(name)), element("td", { class: "number" }, text(wish)), element("td", { class: "number" }, text(now)), element("td", {}, now == null ? "" : gauge));
  }));
  const none = !Object.keys(asked).length;
  get("reached-foot").textContent = none ? "Nothing was asked for." : got ? "Measured on the result, by looking at it again. The bar is the difference." : "No face was found in the result, so nothing could be measured.";
}
