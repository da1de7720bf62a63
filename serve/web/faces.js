// The edited image (a photo, or a frame of a video) with the edits of its faces, and the buttons to choose a face.

import { element } from "./controls.js";
import { isNothing } from "./panel.js";

const PICTURE_PX = 112; // side of a face's picture; shown at half of it

export class Subject {
  // `before`: the frame before this one, whose edits go on if as many faces are shown.
  constructor(file, analysis, before = null) {
    const sizes = analysis.faces.map((face) => (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]));
    Object.assign(this, { file, analysis, url: URL.createObjectURL(file), face: sizes.indexOf(Math.max(...sizes)), edits: new Map() });
    if (before?.analysis.faces.length === analysis.faces.length) Object.assign(this, { face: before.face, edits: before.edits });
  }
  get numbers() { return this.analysis.faces[this.face].numbers; }
  close() { URL.revokeObjectURL(this.url); }

  // Keep what the panel says as the edit of the chosen face.
  keep(panel) {
    const { state } = panel;
    if (isNothing(state)) this.edits.delete(this.face); else this.edits.set(this.face, state);
  }

  // Choose another face, with its own edit in the panel.
  choose(index, panel) {
    this.keep(panel);
    this.face = index;
    this.show(panel);
  }

  show(panel) { panel.from(this.numbers); panel.restore(this.edits.get(this.face) ?? { edit: {}, copied: [] }); }

  // All edits as fields of a request, and the photos that they copy from, by part.
  request() {
    const faces = [...this.edits].sort(([a], [b]) => a - b), files = {};
    const asked = faces.map(([face, { edit, copied }], n) => {
      for (const [trait, { file }] of copied) files[`${faces.length > 1 ? `faces.${n}.` : ""}target.${trait}`] = file;
      return { face, edit, ...(copied.length ? { targets: Object.fromEntries(copied.map(([trait, { id }]) => [trait, { id }])) } : {}) };
    });
    return [asked.length > 1 ? { faces: asked } : asked[0] ?? { face: this.face, edit: {} }, files];
  }
}

// A button for each face; hidden if there is one.
export class FacePicker {
  constructor(place, chosen) { Object.assign(this, { place, chosen, subject: null }); }

  show(subject) {
    const faces = subject?.analysis.faces ?? [];
    if (this.subject !== subject) {
      const images = faces.map(() => element("canvas", { width: PICTURE_PX, height: PICTURE_PX, "aria-hidden": true }));
      this.place.replaceChildren(...images.map((image, index) => element("button", { type: "button", class: "face", title: `Face ${index + 1}`, onclick: () => this.chosen(index) }, image)));
      if (faces.length > 1) this.paint(subject, images);
    }
    this.subject = subject;
    this.place.hidden = faces.length < 2;
    [...this.place.children].forEach((button, index) => {
      const edited = subject.edits.has(index);
      button.classList.toggle("edited", edited);
      button.setAttribute("aria-pressed", index === subject.face);
      button.setAttribute("aria-label", `Face ${index + 1} of ${faces.length}${edited ? ", edited" : ""}`);
    });
  }

  async paint(subject, images) {
    const photo = new Image();
    photo.src = subject.url;
    try { await photo.decode(); } catch { return; } // the numbers of the faces remain
    const scale = photo.naturalWidth / subject.analysis.width;
    subject.analysis.faces.forEach(({ box: [x0, y0, x1, y1] }, index) => {
      const side = 1.35 * Math.max(x1 - x0, y1 - y0), left = (x0 + x1 - side) / 2, top = (y0 + y1 - side) / 2 - 0.06 * side;
      images[index].getContext("2d").drawImage(photo, left * scale, top * scale, side * scale, side * scale, 0, 0, PICTURE_PX, PICTURE_PX);
    });
  }
}
