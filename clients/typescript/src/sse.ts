/** Server-sent events, read as they come. */

import { unfitAnswer } from "./http.js";
import { isObject, parseJson } from "./json.js";

const SILENT_SECONDS = 45; // the relay sends a heartbeat every 15 s
const MAX_FRAME = 4 * 1024 * 1024;

/** The frames of an open answer. Ends when it ends; throws when it is cut, or silent for too long. */
export async function* frames(
  response: Response,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ id: string; data: Record<string, unknown> }, void, undefined> {
  const type = response.headers.get("Content-Type") ?? "";
  if (response.body === null || !type.startsWith("text/event-stream")) {
    response.body?.cancel().catch(() => {});
    throw unfitAnswer(response.status, "it is not an event stream");
  }
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const end = () => void reader.cancel().catch(() => {});
  let rest = "";
  try {
    for (;;) {
      const timer = setTimeout(end, SILENT_SECONDS * 1000);
      signal?.addEventListener("abort", end);
      if (signal?.aborted) end();
      const { done, value } = await reader.read().finally(() => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", end);
      });
      signal?.throwIfAborted();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      rest = parts.pop() ?? "";
      if (rest.length > MAX_FRAME) throw unfitAnswer(200, "a frame is too long");
      for (const part of parts) {
        const data = field(part, "data");
        if (data) yield { id: field(part, "id"), data: parsed(data) };
      }
    }
  } finally {
    end();
  }
}

function field(frame: string, name: string): string {
  const lines = frame.split(/\r?\n/).filter((line) => line.startsWith(`${name}:`));
  return lines.map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\n");
}

function parsed(data: string): Record<string, unknown> {
  try {
    const value = parseJson(data);
    if (isObject(value)) return value;
  } catch {
    // told below
  }
  throw unfitAnswer(200, "a frame is not a JSON object");
}
