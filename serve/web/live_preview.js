// Live preview of the sliders: one request at a time, then the latest state.

import * as api from "./api.js";
import { remarks } from "./results.js";
import { claimStatus, withRetries, setPreviewStatus, showError, onReconnect } from "./notice.js";

const MAX_SIDE = 1024;

export class LivePreview {
  constructor(panel, viewer, picker) {
    Object.assign(this, { panel, viewer, picker, subject: null, held: false, following: false, again: false, previous: "" });
    onReconnect(() => this.changed());
  }

  get subject() { return this.shown; }
  set subject(subject) { this.shown = subject; this.picker.show(subject); }

  body() { return { picture: { id: this.subject.analysis.picture }, ...this.subject.request()[0] }; }

  async changed() {
    if (this.subject) { this.subject.keep(this.panel); this.picker.show(this.subject); }
    if (!this.subject || this.held) return;
    claimStatus();
    this.again = true;
    if (this.following) return;
    this.following = true;
    try {
      while (this.again) {
        this.again = false;
        const { subject } = this;
        if (!subject.edits.size) { this.viewer.show(subject.url, ""); setPreviewStatus("As photographed."); continue; }
        const began = performance.now(), body = { ...this.body(), max_side: this.side() };
        const { image, warnings } = await withRetries(() => this.sending((files) => api.preview(body, files)), setPreviewStatus);
        if (this.held || subject !== this.subject) continue;
        this.replace(image);
        setPreviewStatus([`Preview in ${Math.round(performance.now() - began)} ms.`, ...remarks(warnings)].join(" "));
      }
    } catch (error) { showError(error); } finally { this.following = false; }
  }

  // While held, a late preview does not replace what the viewer shows, such as a result.
  hold(held) { this.held = held; }

  // Name pictures by hash; if this replica of the service does not have one, send the files.
  async sending(work) {
    const files = { picture: this.subject.file, ...this.subject.request()[1] };
    try { return await work(null); } catch (error) {
      if (error.slug !== "unknown-picture") throw error;
      return work(files);
    }
  }

  side() {
    const { plate } = this.viewer, longest = Math.max(plate.clientWidth, plate.clientHeight) * Math.min(2, devicePixelRatio);
    return Math.min(MAX_SIDE, Math.max(256, 64 * Math.ceil(longest / 64)));
  }

  replace(blob) {
    const url = URL.createObjectURL(blob), old = this.previous;
    this.viewer.show(url, "preview");
    if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    this.previous = url;
  }
}
