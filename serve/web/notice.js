// What the page says: the line under the picture, and the notice above it; and what it does while the service is away.

import * as api from "./api.js";

const get = (id) => document.getElementById(id);
const MOST_TRIES = 8;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const back = new EventTarget(); // "back": the service answers again
let watching = false;

// A text in which what is typed, such as "--jobs FOLDER", stays on one line.
export function write(element, text) {
  element.replaceChildren(...text.split(/(--[a-z-]+(?: [A-Z]+)?)/).map((part, k) => {
    if (k % 2 === 0) return part;
    const typed = document.createElement("code");
    typed.textContent = part;
    return typed;
  }));
}

export function say(text) { get("status").textContent = text; }

export function tell(error) {
  const away = error.slug === "unreachable";
  get("notice").hidden = false;
  get("notice").classList.toggle("passing", error.passing === true);
  get("notice-text").textContent = error.message || "Something went wrong.";
  get("key-form").hidden = error.slug !== "unauthorized";
  if (error.slug === "unauthorized") get("key").focus();
  if (away) watch();
}

export function hush() { if (!watching) get("notice").hidden = true; }

const size = (bytes) => `${Math.round(bytes / 2 ** 20)} MB`;
// Whether a file is more than the service takes; then the page has said so, before anything is sent.
export function tooLarge(file, most, advice) {
  if (file.size <= most) return false;
  tell(new Error(`This file has ${size(file.size)}; the service takes up to ${size(most)}. A smaller copy will do: ${advice}.`));
  return true;
}

// `work`, again while the service says that it is busy.
export async function patiently(work) {
  for (let tried = 1; ; tried++) {
    try { return await work(); } catch (error) {
      if (!error.passing || error.slug === "unreachable" || tried === MOST_TRIES) throw error;
      const seconds = Math.min(30, error.retryAfter ?? tried);
      say(`The service is busy. Trying again in ${Math.round(seconds)} s.`);
      await pause(seconds * (0.9 + 0.3 * Math.random()));
    }
  }
}

// Ask until there is an answer, then let everybody go on from where they were.
async function watch() {
  if (watching) return;
  watching = true;
  const said = get("notice-text").textContent;
  for (let tried = 0; ; tried++) {
    get("notice-text").textContent = `${said} Trying to reach it again …`;
    await pause(Math.min(5, 0.5 + 0.5 * tried));
    try { await api.alive(); break; } catch { /* not yet */ }
  }
  watching = false;
  hush();
  say("The service answers again.");
  back.dispatchEvent(new Event("back"));
}

export const whenBack = (act) => back.addEventListener("back", act);
