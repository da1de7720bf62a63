// The photo tab: a photo is looked at, edited, rendered; results go into the history.

import * as api from "./api.js";
import { Subject } from "./follow.js";
import { hush, patiently, say, tell } from "./notice.js";
import { Results } from "./results.js";

const get = (id) => document.getElementById(id);
const PHASES = { paint: (step, steps) => `Step ${step} of ${steps}`, preview: () => "Moving and measuring", look: () => "Looking" };

export class Photo {
  constructor({ panel, stage, follow, look }) {
    Object.assign(this, { panel, stage, follow, look, subject: null, painting: null });
    this.results = new Results(panel, (entry) => {
      follow.hold(true);
      stage.show(entry.url, entry.result ? entry.label : "");
    });
    get("cancel").addEventListener("click", () => this.painting?.abort());
  }

  get opened() { return Boolean(this.subject); }

  // The tab is looked at: the stage is this photo's.
  enter() {
    get("drop").hidden = Boolean(this.subject);
    get("below").hidden = !this.subject;
    if (!this.subject) { this.stage.close(); this.follow.subject = null; return; }
    this.follow.subject = this.subject;
    this.stage.open(this.subject.url, this.subject.seen);
    this.stage.choose(this.subject.face);
    this.panel.from(this.subject.numbers, true);
    this.follow.changed();
  }

  async open(file) {
    this.painting?.abort();
    const early = URL.createObjectURL(file);
    await this.stage.glimpse(early); // the photo itself needs no service
    const seen = await this.look(file, "photo");
    URL.revokeObjectURL(early);
    if (!seen) { this.enter(); return; }
    this.subject?.close();
    this.subject = new Subject(file, seen);
    this.panel.from(this.subject.numbers);
    this.results.begin(this.subject.url);
    this.follow.hold(false);
    this.enter();
    const { length } = seen.faces;
    say(length === 1 ? "One face. Move a slider." : `${length} faces. Choose one in the picture, then move a slider.`);
  }

  // Something was moved: what is on the stage is a wish again.
  moved() { this.results.leave(); }

  choose(index) {
    this.subject.face = index;
    this.stage.choose(index);
    this.panel.from(this.subject.numbers);
  }

  async render({ model, seed, steps }) {
    if (this.painting || !this.subject) return;
    hush();
    const abort = (this.painting = new AbortController());
    const wish = { ...this.follow.body(), model: model || null, seed, ...(steps ? { steps } : {}), previews: 4, format: "png" };
    const entry = { edit: wish.edit, given: this.panel.given.map(([trait, { id, file }]) => [trait, { id, file }]), of: this.subject };
    get("render").disabled = true;
    get("progress").hidden = false;
    this.progress({ phase: "look", step: 0, steps: 1 });
    try {
      await patiently(() => this.follow.sending(async (files) => {
        for await (const { name, data } of api.edit(wish, abort.signal, files)) {
          if (name === "progress") this.progress(data);
          if (name === "result") this.finish(data, entry);
        }
      }));
    } catch (error) { if (error.name !== "AbortError") tell(error); else say("Cancelled."); } finally {
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
    if (this.follow.subject === this.subject) this.results.recall(this.results.latest, false);
    say(`Rendered in ${result.seconds.total.toFixed(1)} s by ${result.model}, seed ${result.seed}.`);
  }
}
