// Status line and error notice, retries of a busy service, and reconnection.

import * as api from "./api.js";

const get = (id) => document.getElementById(id);
const MAX_TRIES = 8;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const back = new EventTarget(); // dispatches "back" after a reconnection
let watching = false;

// Text with commands such as "--jobs FOLDER" as <code>, so that they do not wrap.
export function write(element, text) {
  element.replaceChildren(...text.split(/(--[a-z-]+(?: [A-Z]+)?)/).map((part, k) => {
    if (k % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  }));
}

let previewing = false; // true if the latest status is of the live preview
export function setStatus(text) { previewing = false; get("status").textContent = text; }

// The status of the live preview, from the change of a control until another part of the page writes a status.
export function claimStatus() { previewing = true; }
export function setPreviewStatus(text) { if (previewing) get("status").textContent = text; }

export function showError(error) {
  const away = error.slug === "unreachable";
  get("notice").hidden = false;
  get("notice").classList.toggle("passing", error.passing === true);
  get("notice-text").textContent = error.message || "Something went wrong.";
  get("key-form").hidden = error.slug !== "unauthorized";
  if (error.slug === "unauthorized") get("key").focus();
  if (away) watch();
}

export function clearNotice() { if (!watching) get("notice").hidden = true; }

const size = (bytes) => `${Math.round(bytes / 2 ** 20)} MB`;
// True after showing an error for a file above the service's limit.
export function tooLarge(file, max, advice) {
  if (file.size <= max) return false;
  showError(new Error(`This file is ${size(file.size)}; the limit is ${size(max)}. Use a smaller copy: ${advice}.`));
  return true;
}

// Run `work`, and retry while the service is busy.
export async function withRetries(work, status = setStatus) {
  for (let tried = 1; ; tried++) {
    try { return await work(); } catch (error) {
      if (!error.passing || error.slug === "unreachable" || tried === MAX_TRIES) throw error;
      const seconds = Math.min(30, error.retryAfter ?? tried);
      status(`The service is busy. Trying again in ${Math.round(seconds)} s.`);
      await pause(seconds * (0.9 + 0.3 * Math.random()));
    }
  }
}

// Poll until the service answers, then continue.
async function watch() {
  if (watching) return;
  watching = true;
  const message = get("notice-text").textContent;
  for (let tried = 0; ; tried++) {
    get("notice-text").textContent = `${message} Reconnecting …`;
    await pause(Math.min(5, 0.5 + 0.5 * tried));
    try { await api.alive(); break; } catch { /* not yet */ }
  }
  watching = false;
  clearNotice();
  setStatus("Connected again.");
  back.dispatchEvent(new Event("back"));
}

export const onReconnect = (act) => back.addEventListener("back", act);
