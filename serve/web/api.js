// The service as functions. Errors are problem documents (RFC 9457): thrown as `Problem`.

export class Problem extends Error {
  constructor(document) {
    super(document.detail || document.title);
    this.slug = String(document.type || "").split(":").pop();
    this.status = document.status;
  }
}

const KEY = "rigface-key";
export const useKey = (key) => sessionStorage.setItem(KEY, key);

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return { ...more, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ type: "unreachable", title: "The service cannot be reached.", status: 0 });
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let document = { type: "unknown", title: `The service answered ${answer.status}.`, status: answer.status };
  try { document = { ...document, ...JSON.parse(text) }; } catch { /* not ours */ }
  throw new Problem(document);
}

const json = (body) => ({ method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export const models = async () => (await (await ask("v1/models")).json()).models;

export async function reconstruct(file) {
  const form = new FormData();
  form.append("picture", file);
  return (await ask("v1/reconstruct", { method: "POST", body: form })).json();
}

export async function preview(body, signal) {
  const answer = await ask("v1/preview", { ...json(body), signal });
  return { image: await answer.blob(), asked: JSON.parse(answer.headers.get("RigFace-Asked") || "[]") };
}

export async function* edit(body, signal) {
  const options = json(body);
  options.headers.Accept = "text/event-stream";
  const answer = await ask("v1/edits", { ...options, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const block = text.slice(0, end);
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = JSON.parse(/^data: (.*)$/m.exec(block)?.[1] ?? "null");
      if (name === "error") throw new Problem(data);
      yield { name, data };
    }
  }
}

export function blobOf(base64, type) {
  const binary = atob(base64);
  return new Blob([Uint8Array.from(binary, (c) => c.charCodeAt(0))], { type });
}
