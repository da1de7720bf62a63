// The preview follows the sliders: one request under way, then the latest wish.

import * as api from "./api.js";
import { patiently, say, tell, whenBack } from "./notice.js";

const MAX_SIDE = 1024;

// What is being edited: a photo, or a frame of a clip.
export class Subject {
  constructor(file, seen) {
    const sizes = seen.faces.map((face) => (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]));
    Object.assign(this, { file, seen, url: URL.createObjectURL(file), face: sizes.indexOf(Math.max(...sizes)) });
  }
  get numbers() { return this.seen.faces[this.face].numbers; }
  close() { URL.revokeObjectURL(this.url); }
}

export class Follow {
  constructor(panel, stage) {
    Object.assign(this, { panel, stage, subject: null, held: false, following: false, again: false, previous: "" });
    whenBack(() => this.changed());
  }

  body() {
    const { subject, panel } = this;
    return { picture: { id: subject.seen.picture }, face: subject.face, edit: panel.edit(), ...(panel.given.length ? { targets: panel.targets } : {}) };
  }

  async changed() {
    if (!this.subject || this.held) return;
    this.again = true;
    if (this.following) return;
    this.following = true;
    try {
      while (this.again) {
        this.again = false;
        const { subject } = this;
        if (this.panel.nothing) { this.stage.show(subject.url, ""); say("As photographed."); continue; }
        const began = performance.now(), body = { ...this.body(), max_side: this.side() };
        const { image } = await patiently(() => this.sending((files) => api.preview(body, files)));
        if (this.held || subject !== this.subject) continue;
        this.replace(image);
        say(`Preview in ${Math.round(performance.now() - began)} ms.`);
      }
    } catch (error) { tell(error); } finally { this.following = false; }
  }

  // Something else is on the stage, such as a result; a preview that is late must not cover it.
  hold(held) { this.held = held; }

  // A service that has forgotten a picture, or has several doors of which another knows it, is sent it with the request.
  async sending(work) {
    const files = { picture: this.subject.file };
    for (const [trait, giver] of this.panel.given) files[`target.${trait}`] = giver.file;
    try { return await work(null); } catch (error) {
      if (error.slug !== "unknown-picture") throw error;
      return work(files);
    }
  }

  side() {
    const { plate } = this.stage, longest = Math.max(plate.clientWidth, plate.clientHeight) * Math.min(2, devicePixelRatio);
    return Math.min(MAX_SIDE, Math.max(256, 64 * Math.ceil(longest / 64)));
  }

  replace(blob) {
    const url = URL.createObjectURL(blob), old = this.previous;
    this.stage.show(url, "preview");
    if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
    this.previous = url;
  }
}
