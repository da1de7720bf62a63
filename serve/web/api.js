// HTTP client of the service. Errors are problem documents (RFC 9457), thrown as `Problem`.

export class Problem extends Error {
  constructor(document, retryAfter = null) {
    super(document.detail || document.title);
    this.slug = String(document.type || "").split(":").pop();
    this.status = document.status;
    this.retryAfter = retryAfter; // seconds, if the service sends Retry-After
  }
  // True for temporary conditions: a full or unreachable service.
  get passing() { return ["busy", "rate-limited", "draining", "unreachable"].includes(this.slug); }
}

const KEY = "rigface-key";
export const useKey = (key) => sessionStorage.setItem(KEY, key);

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return { ...more, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

const lost = (title) => new Problem({ type: "unreachable", title, status: 0 });

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost("The service cannot be reached.");
  }
  if (answer.ok) return answer;
  const text = await answer.text().catch(() => "");
  let document = { type: answer.status >= 500 ? "busy" : "unknown", title: `The service returned status ${answer.status}.`, status: answer.status };
  try { document = { ...document, ...JSON.parse(text) }; } catch { /* not the service's own response: a proxy in front of it answered */ }
  const after = Number(answer.headers.get("Retry-After"));
  throw new Problem(document, after > 0 ? after : null);
}

// A request with pictures named by hash, or, with `files`, sent as multipart parts of those names.
function post(body, files = null) {
  if (!files) return json(body);
  const { picture, targets, faces, ...rest } = body, form = new FormData();
  if (faces) rest.faces = faces.map(({ targets, ...one }) => one);
  for (const [name, file] of Object.entries(files)) form.append(name, file);
  form.append("request", JSON.stringify(rest));
  return { method: "POST", body: form, headers: {} };
}

const json = (body) => ({ method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export const models = async () => (await ask("v1/models")).json();
export const alive = async () => { await ask("healthz", { cache: "no-store" }); };

export async function reconstruct(file) {
  const form = new FormData();
  form.append("picture", file);
  return (await ask("v1/reconstruct", { method: "POST", body: form })).json();
}

export async function preview(body, files) {
  const answer = await ask("v1/preview", post(body, files));
  return { image: await answer.blob(), asked: JSON.parse(answer.headers.get("RigFace-Asked") || "[]"), warnings: JSON.parse(answer.headers.get("RigFace-Warnings") || "[]") };
}

export async function* edit(body, signal, files) {
  const options = post(body, files);
  options.headers.Accept = "text/event-stream";
  const answer = await ask("v1/edits", { ...options, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => { throw error.name === "AbortError" ? error : lost("The connection was lost."); });
    if (done) throw lost("The connection was lost."); // a stream ends with its result
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const block = text.slice(0, end);
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = JSON.parse(/^data: (.*)$/m.exec(block)?.[1] ?? "null");
      if (name === "error") throw new Problem(data);
      yield { name, data };
      if (name === "result") return;
    }
  }
}

export const submit = async (request, files) => (await ask("v1/jobs", post(request, files))).json();

export const jobs = async () => (await (await ask("v1/jobs")).json()).jobs;
export const cancel = async (id) => (await ask(`v1/jobs/${id}/cancel`, { method: "POST" })).json();
export const remove = (id) => ask(`v1/jobs/${id}`, { method: "DELETE" });
export const result = async (id, number) => (await ask(`v1/jobs/${id}/results/${number}?through=true`)).blob();

export function blobOf(base64, type) {
  const binary = atob(base64);
  return new Blob([Uint8Array.from(binary, (c) => c.charCodeAt(0))], { type });
}
