// The video tab: a clip on the stage, the preview on whichever frame it stands at, and jobs that edit all of it.

import * as api from "./api.js";
import { Subject } from "./follow.js";
import { Jobs } from "./jobs.js";
import { hush, patiently, say, tell, tooLarge, write } from "./notice.js";
import { reach } from "./results.js";

const get = (id) => document.getElementById(id);
const FIRST_S = 0.5; // the frame that is looked at first; the very first ones are black in many clips
const DRIFT_S = 0.08; // two clips that play side by side may be so far apart
const HINTS = {
  video: "The sliders are tried on the frame that is shown; the job does the same to every frame.",
  animation: "The photo of the other tab moves as the face of this clip does. Sliders stand over what the clip gives.",
  missing: "Open a photo in the other tab first: it will move as the face of this clip does.",
  off: "This service takes no jobs. It does when it is started with --jobs FOLDER.",
};
const time = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
const once = (target, event) => new Promise((done, failed) => {
  target.addEventListener(event, done, { once: true });
  target.addEventListener("error", () => failed(new Error("This browser cannot play the clip; the service may still be able to.")), { once: true });
});

export class Video {
  constructor({ panel, stage, follow, look, service }, photo) {
    Object.assign(this, { panel, stage, follow, look, service, photo, file: null, frame: null, sending: false, shown: null });
    Object.assign(this, { player: get("clip"), film: get("film") }); // as it was, and as it was made
    this.jobs = new Jobs((job, name) => this.show(job, name));
    this.clips = new Map(); // job -> the clip it was made of, while this page is open
    for (const input of get("modes").querySelectorAll("input")) input.addEventListener("change", () => { this.moved(); this.arrange(); });
    get("play").addEventListener("click", () => (this.lead.paused ? this.play() : this.pause()));
    get("sound").addEventListener("click", () => {
      this.lead.muted = !this.lead.muted;
      get("sound").setAttribute("aria-pressed", !this.lead.muted);
    });
    get("scrub").addEventListener("input", () => { this.lead.pause(); this.lead.currentTime = Number(get("scrub").value); });
    get("scrub").addEventListener("change", () => this.pause());
    for (const player of [this.player, this.film]) {
      player.addEventListener("timeupdate", () => this.clock());
      player.addEventListener("seeked", () => this.clock());
    }
  }

  get opened() { return Boolean(this.file); }
  get mode() { return get("modes").querySelector(":checked").value; }
  get subject() { return this.mode === "animation" ? this.photo.subject : this.frame; }
  get lead() { return this.shown ? this.film : this.player; }
  get startable() { return this.service.jobs && Boolean(this.file) && !this.sending && (this.mode === "video" || Boolean(this.photo.subject)); }

  enter() {
    get("drop-clip").hidden = Boolean(this.file);
    get("transport").hidden = !this.file;
    if (this.file) this.arrange(); else { this.stage.close(); this.follow.subject = null; this.hint(); }
    this.jobs.watch(true);
  }

  leave() {
    this.moved();
    this.jobs.watch(false);
    this.player.pause();
    get("transport").hidden = this.player.hidden = true;
    this.stage.plate.classList.remove("inset", "playing");
  }

  async open(file) {
    hush();
    if (tooLarge(file, this.service.clip_bytes, "a shorter one, or 720 lines")) return;
    this.moved();
    if (this.player.src && ![...this.clips.values()].includes(this.player.src)) URL.revokeObjectURL(this.player.src);
    this.frame?.close();
    Object.assign(this, { file, frame: null });
    try {
      const loaded = once(this.player, "loadeddata");
      this.player.src = URL.createObjectURL(file);
      await loaded;
    } catch (error) { tell(error); this.enter(); return; }
    get("scrub").max = this.player.duration;
    get("drop-clip").hidden = true;
    get("transport").hidden = false;
    await this.stand(Math.min(FIRST_S, this.player.duration / 4));
  }

  // Go to a time, look at the frame there, and let the preview follow on it.
  async stand(at) {
    if (Math.abs(this.player.currentTime - at) > 0.001) {
      const there = once(this.player, "seeked");
      this.player.currentTime = at;
      await there;
    }
    const { videoWidth: width, videoHeight: height } = this.player;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").drawImage(this.player, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.93));
    const file = new File([blob], "frame.jpg", { type: "image/jpeg" });
    const seen = await this.look(file, "frame");
    this.frame?.close();
    this.frame = seen && new Subject(file, seen);
    this.arrange();
  }

  // The stage: the frame with its preview, or the photo that is moved with the clip in its corner.
  arrange() {
    if (document.body.dataset.tab !== "video") return; // left meanwhile
    const { subject, stage } = this, animation = this.mode === "animation";
    stage.plate.classList.toggle("inset", animation);
    stage.plate.classList.toggle("playing", !animation && !subject);
    this.player.hidden = !animation && Boolean(subject);
    this.film.hidden = true;
    this.follow.subject = subject ?? null;
    get("stage").hidden = false;
    if (subject) {
      stage.open(subject.url, subject.seen, true);
      stage.choose(subject.face);
      this.panel.from(subject.numbers, true);
      this.follow.changed();
    } else if (this.player.videoWidth) stage.shape(this.player.videoWidth, this.player.videoHeight);
    this.hint();
    this.clock();
  }

  hint() {
    write(get("mode-hint"), HINTS[!this.service.jobs ? "off" : this.mode === "animation" && !this.photo.subject ? "missing" : this.mode]);
    get("render").disabled = !this.startable;
  }

  // A slider was moved: the film, if one is shown, makes room for the frame.
  moved() {
    if (!this.shown) return;
    this.film.pause();
    this.film.hidden = true;
    URL.revokeObjectURL(this.film.src);
    this.shown = null;
    get("below").hidden = get("download").hidden = true;
    reach(this.panel, null);
    this.stage.plate.classList.remove("film");
    if (this.file) this.arrange(); else this.stage.close();
  }

  choose(index) {
    this.subject.face = index;
    this.stage.choose(index);
    this.panel.from(this.subject.numbers, true);
  }

  // ---- playing

  play() {
    if (!this.shown) { this.player.hidden = false; this.stage.plate.classList.toggle("playing", this.mode === "video"); }
    this.lead.play();
    if (this.shown && !this.player.hidden) this.player.play();
    this.clock();
  }

  pause() {
    this.player.pause();
    this.film.pause();
    this.clock();
    if (!this.shown && this.mode === "video") this.stand(this.player.currentTime);
  }

  clock() {
    const { lead } = this, { currentTime: now, duration } = lead;
    get("scrub").max = duration || 1;
    get("scrub").value = now;
    get("clock").value = duration ? `${time(now)} / ${time(duration)}` : "";
    get("play").textContent = lead.paused ? "▶" : "❙❙";
    get("play").setAttribute("aria-label", lead.paused ? "Play" : "Pause");
    if (this.shown && Math.abs(this.player.currentTime - now) > DRIFT_S) this.player.currentTime = now;
  }

  // ---- jobs

  async start({ model, seed, steps }) {
    hush();
    const { mode, panel, subject } = this, animation = mode === "animation";
    const many = subject?.seen.faces.length > 1;
    const request = { kind: mode, edit: panel.edit(), model: model || null, seed, ...(steps ? { steps } : {}), ...(many ? { face: subject.face } : {}) };
    const files = { clip: this.file, ...(animation ? { picture: this.photo.subject.file } : {}) };
    for (const [trait, giver] of panel.given) files[`target.${trait}`] = giver.file;
    if (!animation && panel.nothing) { say("Nothing is moved yet: the clip would stay as it is."); return; }
    this.sending = true;
    this.hint();
    say("Sending the clip …");
    try {
      const job = await patiently(() => api.submit(request, files));
      this.clips.set(job.id, this.player.src);
      this.jobs.name(job.id, this.file.name);
      say("The job is queued. It goes on when this page is closed.");
      this.jobs.watch(true);
    } catch (error) { tell(error); say(""); } finally {
      this.sending = false;
      this.hint();
    }
  }

  // A finished job on the stage, beside the clip it was made of where that is still here.
  async show(job, name) {
    hush();
    say("Fetching the result …");
    try {
      const blob = await api.result(job.id, job.results[0]), own = this.clips.get(job.id);
      this.player.pause();
      if (this.shown) URL.revokeObjectURL(this.film.src);
      const loaded = once(this.film, "loadeddata");
      this.film.src = URL.createObjectURL(blob);
      await loaded;
      this.shown = job;
      this.follow.hold(true);
      const compared = own === this.player.src && job.kind === "video";
      get("stage").hidden = get("transport").hidden = this.film.hidden = false;
      get("drop-clip").hidden = true;
      this.player.hidden = !compared;
      this.stage.plate.classList.remove("inset", "playing");
      this.stage.plate.classList.add("film");
      this.stage.shape(this.film.videoWidth, this.film.videoHeight);
      this.stage.show("", job.kind === "video" ? "edited" : "moved");
      this.follow.subject = this.subject ?? null;
      get("below").hidden = false;
      reach(this.panel, job.asked.length ? job : null);
      Object.assign(get("download"), { hidden: false, href: this.film.src, download: name.replace(/(\.\w+)?$/, `-edited.${{ "video/mp4": "mp4", "video/quicktime": "mov" }[job.media_type] ?? "mkv"}`) });
      say(job.notes.join(" "));
      this.play();
    } catch (error) { tell(error); say(""); }
  }
}
