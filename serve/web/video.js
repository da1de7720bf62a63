// Video tab: the clip, a live preview of the current frame, and jobs that edit the whole clip.

import * as api from "./api.js";
import { Subject } from "./faces.js";
import { Jobs } from "./jobs.js";
import { clearNotice, withRetries, setStatus, showError, tooLarge, write } from "./notice.js";
import { showAchieved } from "./results.js";

const get = (id) => document.getElementById(id);
const FIRST_S = 0.5; // time of the first preview: the first frames of many clips are black
const DRIFT_S = 0.08; // tolerated drift between two clips that play side by side
const HINTS = {
  video: "The preview shows the current frame; the job edits every frame.",
  animation: "The photo of the Photo tab follows the face of this video. Sliders override it.",
  missing: "Open a photo in the Photo tab first: it will follow the face of this video.",
  off: "Jobs are disabled. Start the service with --jobs FOLDER to enable them.",
};
const time = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
const once = (target, event) => new Promise((done, failed) => {
  target.addEventListener(event, done, { once: true });
  target.addEventListener("error", () => failed(new Error("This browser cannot play the video.")), { once: true });
});

export class Video {
  constructor({ panel, viewer, preview, analyse, service }, photo) {
    Object.assign(this, { panel, viewer, preview, analyse, service, photo, file: null, frame: null, sending: false, shown: null });
    Object.assign(this, { player: get("clip"), film: get("film") }); // original, edited
    this.jobs = new Jobs((job, name) => this.show(job, name));
    this.clips = new Map(); // job -> URL of its source clip, while this page is open
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
    if (this.file) this.arrange(); else { this.viewer.close(); this.preview.subject = null; this.hint(); }
    this.jobs.watch(true);
  }

  leave() {
    this.moved();
    this.jobs.watch(false);
    this.player.pause();
    get("transport").hidden = this.player.hidden = true;
    this.viewer.plate.classList.remove("inset", "playing");
  }

  async open(file) {
    clearNotice();
    if (tooLarge(file, this.service.clip_bytes, "a shorter video, or 720 lines")) return;
    this.moved();
    if (this.player.src && ![...this.clips.values()].includes(this.player.src)) URL.revokeObjectURL(this.player.src);
    this.frame?.close();
    Object.assign(this, { file, frame: null });
    try {
      const loaded = once(this.player, "loadeddata");
      this.player.src = URL.createObjectURL(file);
      await loaded;
    } catch (error) { showError(error); this.enter(); return; }
    get("scrub").max = this.player.duration;
    get("drop-clip").hidden = true;
    get("transport").hidden = false;
    await this.stand(Math.min(FIRST_S, this.player.duration / 4));
  }

  // Seek, analyse the frame, and preview on it.
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
    const analysis = await this.analyse(file, "frame");
    this.frame?.close();
    this.frame = analysis && new Subject(file, analysis, this.frame);
    this.arrange();
  }

  // The viewer: the frame with its preview, or the photo that is moved with the clip in its corner.
  arrange() {
    if (document.body.dataset.tab !== "video") return; // the tab was left meanwhile
    const { subject, viewer } = this, animation = this.mode === "animation";
    viewer.plate.classList.toggle("inset", animation);
    viewer.plate.classList.toggle("playing", !animation && !subject);
    this.player.hidden = !animation && Boolean(subject);
    this.film.hidden = true;
    this.preview.subject = subject ?? null;
    get("viewer").hidden = false;
    if (subject) {
      viewer.open(subject.url, subject.analysis, true);
      viewer.choose(subject.face);
      this.panel.from(subject.numbers, true);
      this.preview.changed();
    } else if (this.player.videoWidth) viewer.shape(this.player.videoWidth, this.player.videoHeight);
    this.hint();
    this.clock();
  }

  hint() {
    write(get("mode-hint"), HINTS[!this.service.jobs ? "off" : this.mode === "animation" && !this.photo.subject ? "missing" : this.mode]);
    get("render").disabled = !this.startable;
  }

  // Called after a change: a shown result makes room for the frame.
  moved() {
    if (!this.shown) return;
    this.film.pause();
    this.film.hidden = true;
    URL.revokeObjectURL(this.film.src);
    this.shown = null;
    get("below").hidden = get("download").hidden = true;
    showAchieved(this.panel, null);
    this.viewer.plate.classList.remove("film");
    if (this.file) this.arrange(); else this.viewer.close();
  }

  choose(index) {
    this.subject.choose(index, this.panel);
    this.viewer.choose(index);
  }

  // ---- playing

  play() {
    if (!this.shown) { this.player.hidden = false; this.viewer.plate.classList.toggle("playing", this.mode === "video"); }
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
    clearNotice();
    const { mode, panel, subject } = this, animation = mode === "animation";
    const many = subject?.analysis.faces.length > 1;
    subject?.keep(panel);
    const own = [{ edit: panel.edit(), ...(many ? { face: subject.face } : {}) }, Object.fromEntries(panel.copied.map(([trait, { file }]) => [`target.${trait}`, file]))];
    const [asked, targets] = many && !animation ? subject.request() : own;
    const request = { kind: mode, model: model || null, seed, ...(steps ? { steps } : {}), ...asked };
    const files = { clip: this.file, ...(animation ? { picture: this.photo.subject.file } : {}), ...targets };
    if (!animation && (many ? !subject.edits.size : panel.nothing)) { setStatus("No changes yet: the video would stay as it is."); return; }
    this.sending = true;
    this.hint();
    setStatus("Uploading the video …");
    try {
      const job = await withRetries(() => api.submit(request, files));
      this.clips.set(job.id, this.player.src);
      this.jobs.name(job.id, this.file.name);
      setStatus("The job is queued. It continues if you close this page.");
      this.jobs.watch(true);
    } catch (error) { showError(error); setStatus(""); } finally {
      this.sending = false;
      this.hint();
    }
  }

  // Show the result of a job, beside its source clip if this page still has it.
  async show(job, name) {
    clearNotice();
    setStatus("Fetching the result …");
    try {
      const blob = await api.result(job.id, job.results[0]), own = this.clips.get(job.id);
      this.player.pause();
      if (this.shown) URL.revokeObjectURL(this.film.src);
      const loaded = once(this.film, "loadeddata");
      this.film.src = URL.createObjectURL(blob);
      await loaded;
      this.shown = job;
      this.preview.hold(true);
      const compared = own === this.player.src && job.kind === "video";
      get("viewer").hidden = get("transport").hidden = this.film.hidden = false;
      get("drop-clip").hidden = true;
      this.player.hidden = !compared;
      this.viewer.plate.classList.remove("inset", "playing");
      this.viewer.plate.classList.add("film");
      this.viewer.shape(this.film.videoWidth, this.film.videoHeight);
      this.viewer.show("", job.kind === "video" ? "edited" : "animated");
      this.preview.subject = this.subject ?? null;
      get("below").hidden = false;
      showAchieved(this.panel, job.asked.length ? job : null);
      Object.assign(get("download"), { hidden: false, href: this.film.src, download: name.replace(/(\.\w+)?$/, `-edited.${{ "video/mp4": "mp4", "video/quicktime": "mov" }[job.media_type] ?? "mkv"}`) });
      setStatus(job.notes.join(" "));
      this.play();
    } catch (error) { showError(error); setStatus(""); }
  }
}
