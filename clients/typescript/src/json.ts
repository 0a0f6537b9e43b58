/** JSON whose integers keep their digits, and bodies of a bounded size. */

const MAX_TEXT_BYTES = 64 * 1024 * 1024;
const LONG_INTEGER = /-?\d{16}/;
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;

/** Parses JSON. An integer beyond 2^53, which a number cannot hold, becomes a string of its digits. */
export function parseJson(text: string): unknown {
  const value: unknown = JSON.parse(text); // first: TOKENS takes minutes for text that is no JSON
  if (!LONG_INTEGER.test(text)) return value;
  const kept = text.replace(TOKENS, (token) =>
    /^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token,
  );
  return JSON.parse(kept);
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** An environment variable, if there is one, without surrounding white space. */
export function variable(name: string): string | undefined {
  const found = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return found.process?.env?.[name]?.trim() || undefined;
}

/** Raised for a body above its limit. */
export class TooLarge extends Error {}

/** The bytes of a body. Throws TooLarge as soon as there are more than `limit`. */
export async function readBytes(
  body: ReadableStream<Uint8Array> | null,
  limit: number = MAX_TEXT_BYTES,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  if (body !== null) {
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      size += value.length;
      if (size > limit) {
        reader.cancel().catch(() => {});
        throw new TooLarge(`the body has more than ${limit} bytes`);
      }
      parts.push(value);
    }
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
