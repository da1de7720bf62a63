// Photo tab: open, edit, render, history of results.

import * as api from "./api.js";
import { Subject } from "./faces.js";
import { clearNotice, withRetries, setStatus, showError } from "./notice.js";
import { Results } from "./results.js";

const get = (id) => document.getElementById(id);
const PHASES = { paint: (step, steps) => `Step ${step} of ${steps}`, preview: () => "Editing and measuring", look: () => "Analysing the face" };

export class Photo {
  constructor({ panel, viewer, preview, analyse }) {
    Object.assign(this, { panel, viewer, preview, analyse, subject: null, painting: null });
    this.results = new Results(panel, (entry) => {
      preview.hold(true);
      preview.picker.show(this.subject);
      viewer.show(entry.url, entry.result ? entry.label : "");
    });
    get("cancel").addEventListener("click", () => this.painting?.abort());
  }

  get opened() { return Boolean(this.subject); }

  // Show this tab: the viewer shows its photo.
  enter() {
    get("drop").hidden = Boolean(this.subject);
    get("below").hidden = !this.subject;
    if (!this.subject) { this.viewer.close(); this.preview.subject = null; return; }
    this.preview.subject = this.subject;
    this.viewer.open(this.subject.url, this.subject.analysis);
    this.viewer.choose(this.subject.face);
    this.panel.from(this.subject.numbers, true);
    this.preview.changed();
  }

  async open(file) {
    this.painting?.abort();
    const early = URL.createObjectURL(file);
    await this.viewer.showUnanalysed(early); // the photo itself needs no service
    const analysis = await this.analyse(file, "photo");
    URL.revokeObjectURL(early);
    if (!analysis) { this.enter(); return; }
    this.subject?.close();
    this.subject = new Subject(file, analysis);
    this.panel.from(this.subject.numbers);
    this.results.begin(this.subject);
    this.preview.hold(false);
    this.enter();
    const { length } = analysis.faces;
    setStatus(length === 1 ? "One face found. Move a slider to edit it." : `${length} faces found. Select one in the picture, then move a slider.`);
  }

  // Called after a change: the viewer shows the preview again.
  moved() { this.results.leave(); }

  choose(index) {
    this.subject.choose(index, this.panel);
    this.viewer.choose(index);
  }

  async render({ model, seed, steps }) {
    if (this.painting || !this.subject) return;
    clearNotice();
    const abort = (this.painting = new AbortController());
    const request = { ...this.preview.body(), model: model || null, seed, ...(steps ? { steps } : {}), previews: 4, format: "png" };
    const entry = { edits: new Map(this.subject.edits), of: this.subject };
    get("render").disabled = true;
    get("progress").hidden = false;
    this.progress({ phase: "look", step: 0, steps: 1 });
    try {
      await withRetries(() => this.preview.sending(async (files) => {
        for await (const { name, data } of api.edit(request, abort.signal, files)) {
          if (name === "progress") this.progress(data);
          if (name === "result") this.finish(data, entry);
        }
      }));
    } catch (error) { if (error.name !== "AbortError") showError(error); else setStatus("Cancelled."); } finally {
      this.painting = null;
      get("render").disabled = false;
      get("progress").hidden = get("progress-image").hidden = true;
    }
  }

  progress({ phase, step, steps, preview }) {
    get("bar").max = Math.max(1, steps);
    if (step) get("bar").value = step; else get("bar").removeAttribute("value");
    get("progress-text").textContent = PHASES[phase]?.(step, steps) ?? "";
    if (!preview) return;
    get("progress-image").src = `data:image/jpeg;base64,${preview}`;
    get("progress-image").hidden = false;
  }

  finish(result, entry) {
    if (entry.of !== this.subject) return; // another photo was opened meanwhile
    const url = URL.createObjectURL(api.blobOf(result.image, result.media_type));
    this.results.remember({ ...entry, url, label: result.model, result });
    if (this.preview.subject === this.subject) this.results.recall(this.results.latest, false);
    setStatus(`Rendered in ${result.seconds.total.toFixed(1)} s by ${result.model}, seed ${result.seed}.`);
  }
}
