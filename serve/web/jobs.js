// List of jobs with progress and actions. Polls the service only while the tab is visible.

import * as api from "./api.js";
import { element } from "./controls.js";
import { showError } from "./notice.js";

const get = (id) => document.getElementById(id);
const EVERY_S = 1, IDLE_S = 10, NAMES = "rigface-jobs";
const KINDS = { video: "video edit", animation: "animation", batch: "batch of edits" };
const OPEN = ["queued", "running"];
const seconds = (s) => (s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`);

export class Jobs {
  // `show` is called with the job whose result is opened, and its name.
  constructor(show) {
    Object.assign(this, { show, cards: new Map(), timer: 0, watching: false });
    try { this.names = JSON.parse(localStorage.getItem(NAMES)) ?? {}; } catch { this.names = {}; }
  }

  name(id, name) {
    this.names = Object.fromEntries([...Object.entries(this.names).slice(-49), [id, name]]);
    try { localStorage.setItem(NAMES, JSON.stringify(this.names)); } catch { /* private window: names are not kept */ }
  }

  watch(on) {
    this.watching = on;
    clearTimeout(this.timer);
    if (on) this.refresh();
  }

  async refresh() {
    clearTimeout(this.timer);
    let wait = IDLE_S;
    try {
      const jobs = await api.jobs();
      this.draw(jobs);
      if (jobs.some((job) => OPEN.includes(job.state))) wait = EVERY_S;
    } catch (error) {
      if (error.status === 404) return; // the service has jobs disabled; the panel says so
      if (error.slug === "unreachable") showError(error);
      if (error.passing) wait = 3;
    }
    if (this.watching) this.timer = setTimeout(() => this.refresh(), 1000 * wait);
  }

  draw(jobs) {
    get("jobs-none").hidden = jobs.length > 0;
    const now = new Set(jobs.map((job) => job.id));
    for (const [id, card] of this.cards) if (!now.has(id)) { card.root.remove(); this.cards.delete(id); }
    jobs.forEach((job, index) => {
      const card = this.cards.get(job.id) ?? this.card(job);
      if (get("jobs").children[index] !== card.root) get("jobs").insertBefore(card.root, get("jobs").children[index] ?? null);
      this.update(card, job);
    });
  }

  card(job) {
    const name = this.names[job.id] ?? "Video";
    const button = (text, act) => element("button", { type: "button", class: "quiet", "aria-label": `${text}: ${name}`, onclick: () => act().catch(showError).finally(() => this.refresh()) }, text);
    const card = { name, bar: element("progress", { max: 1, "aria-label": `Progress of ${name}` }), words: element("p", { class: "foot" }) };
    card.show = button("Show", async () => this.show(card.job, name));
    card.cancel = button("Cancel", () => api.cancel(job.id));
    card.remove = button("Remove", () => api.remove(job.id));
    card.root = element("li", { class: "job" }, element("div", {}, element("b", {}, name), element("span", {}, KINDS[job.kind] ?? job.kind), card.bar, card.words), element("div", { class: "acts" }, card.show, card.cancel, card.remove));
    this.cards.set(job.id, card);
    return card;
  }

  update(card, job) {
    card.job = job;
    const open = OPEN.includes(job.state), known = job.total > 0;
    card.root.dataset.state = job.state;
    card.bar.hidden = !open;
    if (known && job.state === "running") card.bar.value = job.finished / job.total; else card.bar.removeAttribute("value");
    card.show.hidden = !(job.kind !== "batch" && job.results.length);
    card.cancel.hidden = !open;
    card.remove.hidden = open;
    card.words.textContent = this.words(job);
  }

  words(job) {
    const unit = job.kind === "batch" ? "edit" : "frame";
    if (job.state === "queued") return "Queued";
    if (job.state === "cancelled") return "Cancelled";
    if (job.state === "failed") return `Failed: ${job.error?.detail ?? job.error?.title ?? "unknown error"}`;
    const took = (Date.parse(job.ended_at ?? new Date().toISOString()) - Date.parse(job.started_at)) / 1000;
    if (job.state === "done") return [`${job.finished} ${unit}s in ${seconds(took)}`, ...job.notes].join(" · ");
    const left = job.finished > 2 && job.total ? ` · about ${seconds((took / job.finished) * (job.total - job.finished))} left` : "";
    return job.total ? `${unit[0].toUpperCase()}${unit.slice(1)} ${job.finished} of ${job.total}${left}` : `${job.finished} ${unit}s so far`;
  }
}
