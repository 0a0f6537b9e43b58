/** Signed requests of a relay (Standard Webhooks): their verification, and a receiver. */

import { isObject, parseJson, readBytes, TooLarge, variable } from "./json.js";
import type { components } from "./openapi.js";

type Schemas = components["schemas"];

const TOLERANCE_SECONDS = 300;
const MAX_BODY_BYTES = 4 * 1024 * 1024;
const MAX_SIGNATURES = 100;

/** A CloudEvent. An integer of its data beyond 2^53 is a string of its digits. */
export interface RelayEvent {
  specversion: "1.0";
  id: string;
  source: string;
  type: string;
  subject?: string;
  time?: string;
  /** Of a job's event: its number, as text that sorts. */
  sequence?: string;
  partitionkey?: string;
  data?: any;
  [extension: string]: any;
}

/** The event of a type, by its name: `job.failed` or `ai.revor.job.failed`. */
export type EventOf<Name extends string> = Name extends `${string}job.${string}` ? Schemas["JobStatusEvent"]
  : Name extends `${string}account.${string}` ? Schemas["ConnectAccountEvent"]
  : Name extends `${string}group.${string}` ? Schemas["RelayGroupEvent"]
  : Name extends `${string}incident.${string}` ? Schemas["RelayIncidentEvent"]
  : Name extends `${string}subscription.${string}` ? Schemas["RelaySubscriptionEvent"]
  : Name extends `${string}delivery.${string}` ? Schemas["RelayDeliveryEvent"]
  : RelayEvent;

/** Why a request does not verify. `wrong_secret` may also be a body that was changed without a trace. */
export type Reason =
  | "missing_header"
  | "malformed_timestamp"
  | "no_v1_signature"
  | "old_timestamp"
  | "future_timestamp"
  | "changed_body"
  | "wrong_secret"
  | "unfit_body";

export class VerificationError extends Error {
  override readonly name = "VerificationError";

  constructor(readonly reason: Reason, detail: string) {
    super(`${reason}: ${detail}`);
  }
}

/** A request that was read: the raw bytes of its body, before any JSON parser. */
export interface RawRequest {
  headers: Headers | Record<string, string | readonly string[] | undefined>;
  body: Uint8Array | string;
}

export interface VerifyOptions {
  /** How far the timestamp may be off (300). */
  toleranceSeconds?: number;
}

/** The secret `whsec_…` of a subscription or of callbacks; several during a rotation. */
export type Secret = string | readonly string[];

/** The event of a request whose signature is valid. Throws VerificationError; TypeError for a malformed secret. */
export async function verify<E = RelayEvent>(
  request: Request | RawRequest,
  secret: Secret,
  options: VerifyOptions = {},
): Promise<E> {
  const [event, ...others] = await verifyAll(request, secret, options);
  if (others.length > 0) throw new VerificationError("unfit_body", "it is a batch: use verifyAll");
  return event as E;
}

/** The events of a request in content mode `structured` or `batch`, in their order. Throws as `verify` does. */
export async function verifyAll(
  request: Request | RawRequest,
  secret: Secret,
  options: VerifyOptions = {},
): Promise<[RelayEvent, ...RelayEvent[]]> {
  const headers = headersOf(request.headers);
  const given = request.body;
  const body = typeof given === "string" ? new TextEncoder().encode(given)
    : given instanceof Uint8Array ? given
    : await readBytes(given, MAX_BODY_BYTES);
  await check(headers, body, [secret].flat(), options.toleranceSeconds ?? TOLERANCE_SECONDS);
  const found = jsonOf(body);
  const events = Array.isArray(found) ? found : [found];
  if (events.length === 0 || !events.every((one) => isObject(one) && typeof one["type"] === "string")) {
    throw new VerificationError("unfit_body", "the body is no CloudEvent as JSON, and no array of them");
  }
  return events as [RelayEvent, ...RelayEvent[]];
}

async function check(headers: Pick<Headers, "get">, body: Uint8Array, secrets: readonly string[], toleranceSeconds: number) {
  const keys = await Promise.all(secrets.map(keyOf));
  const [id, timestamp, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map((name) => {
    const value = headers.get(name)?.trim();
    if (!value) throw new VerificationError("missing_header", `the request has no ${name} header`);
    return value;
  }) as [string, string, string];
  if (!/^\d{1,15}$/.test(timestamp)) {
    throw new VerificationError("malformed_timestamp", "webhook-timestamp is not whole seconds");
  }
  const given = signature.split(/\s+/).filter((one) => one.startsWith("v1,")).slice(0, MAX_SIGNATURES);
  if (given.length === 0) throw new VerificationError("no_v1_signature", "webhook-signature has no v1 signature");

  const matches = async (candidate: Uint8Array): Promise<boolean> => {
    const content = new Uint8Array(await new Blob([`${id}.${timestamp}.`, new Uint8Array(candidate)]).arrayBuffer());
    for (const key of keys) {
      for (const one of given) {
        const raw = bytesOf(one.slice("v1,".length));
        if (raw && (await crypto.subtle.verify("HMAC", key, raw, content))) return true; // in constant time
      }
    }
    return false;
  };

  const age = Date.now() / 1000 - Number(timestamp);
  const checkTime = () => {
    if (Math.abs(age) <= toleranceSeconds) return;
    const [reason, off] = age > 0 ? (["old_timestamp", "old"] as const) : (["future_timestamp", "ahead"] as const);
    const detail = `the timestamp is ${Math.round(Math.abs(age))} s ${off}, ${toleranceSeconds} s are allowed`;
    throw new VerificationError(reason, detail);
  };
  if (await matches(body)) return checkTime();
  let changed = changeOf(headers, body, id);
  for (const candidate of rewritten(body)) {
    if (await matches(candidate)) changed = "it was parsed and written again: verify its raw bytes";
  }
  if (changed) throw new VerificationError("changed_body", `the body is not the one that was signed: ${changed}`);
  checkTime();
  const detail = "no signature matches: the secret is another one, or the id, timestamp or body was changed";
  throw new VerificationError("wrong_secret", detail);
}

/** Throws TypeError, which does not quote it, if a secret is malformed. */
function keyOf(secret: string): Promise<CryptoKey> {
  const bytes = secret.startsWith("whsec_") ? bytesOf(secret.slice("whsec_".length)) : undefined;
  if (bytes === undefined || bytes.length < 24 || bytes.length > 64) {
    throw new TypeError("secret: it must be whsec_ and the base64 of 24 to 64 bytes");
  }
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
}

export function randomSecret(): string {
  return secretOf(crypto.getRandomValues(new Uint8Array(24)));
}

export function secretOf(bytes: Uint8Array): string {
  return `whsec_${btoa(String.fromCharCode(...bytes))}`;
}

function bytesOf(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** The body as a framework may have had it before it was written again. */
function* rewritten(body: Uint8Array): Generator<Uint8Array> {
  const text = new TextDecoder().decode(body);
  for (const one of [text.trim(), `${text}\n`]) yield new TextEncoder().encode(one);
  try {
    yield new TextEncoder().encode(JSON.stringify(JSON.parse(text)));
  } catch {
    // it is no JSON
  }
}

function changeOf(headers: Pick<Headers, "get">, body: Uint8Array, id: string): string | undefined {
  const length = headers.get("content-length") ?? "";
  if (/^\d+$/.test(length) && Number(length) !== body.length) {
    return `it has ${body.length} bytes, and Content-Length says ${length.slice(0, 20)}`;
  }
  if (!headers.get("content-type")?.includes("json")) return undefined;
  const found = jsonOf(body);
  if (found === undefined) return "it is not complete JSON";
  if (isObject(found) && "specversion" in found && found["id"] !== id) return "its event has another id than webhook-id";
  return undefined;
}

function jsonOf(body: Uint8Array): unknown {
  try {
    return parseJson(new TextDecoder().decode(body));
  } catch {
    return undefined;
  }
}

/** Reads a header by its name in lower case. */
function headersOf(given: RawRequest["headers"]): Pick<Headers, "get"> {
  if (given instanceof Headers) return given;
  const names = new Map(Object.keys(given).map((name) => [name.toLowerCase(), name]));
  return { get: (name) => (names.has(name) ? [given[names.get(name) as string] ?? null].flat()[0] ?? null : null) };
}

export interface ReceiverOptions extends VerifyOptions {
  /** Default: the variable WEBHOOK_SECRET. */
  secret?: Secret;
  /** Gets what a handler throws; its event comes again. Default: `console.error`. */
  onError?: (error: unknown, event: RelayEvent) => void;
}

/** Answers requests of a relay: 204 once the handlers have returned, 401 if it does not verify, 500 if one throws. */
export interface Receiver {
  (request: Request): Promise<Response>;
  /** Adds a handler of a type: `job.failed`, `ai.revor.job.failed`, or `*` for all. An event may come twice. */
  on<Name extends string>(name: Name, handler: (event: EventOf<Name>) => unknown): Receiver;
}

/** A receiver for everything that takes a Request: Workers, Deno, Bun, Hono; for Node see `revor-relay-client/node`. */
export function receiver(options: ReceiverOptions = {}): Receiver {
  const secret = options.secret ?? variable("WEBHOOK_SECRET");
  if (secret === undefined || secret.length === 0) throw new TypeError("secret: give one, or set WEBHOOK_SECRET");
  const onError = options.onError ?? ((error) => console.error(error));
  const handlers: { name: string; handler: (event: any) => unknown }[] = [];
  const answer = (status: number, text: string | null = null) => new Response(text, { status });

  const receive = async (request: Request): Promise<Response> => {
    if (request.method === "OPTIONS") {
      const origin = request.headers.get("WebHook-Request-Origin") ?? "";
      if (!origin) return answer(403);
      return new Response(null, { headers: { Allow: "POST", "WebHook-Allowed-Origin": origin } }); // agrees
    }
    if (request.method !== "POST") return answer(405);
    let events: RelayEvent[];
    try {
      events = await verifyAll(request, secret, options);
    } catch (error) {
      if (error instanceof VerificationError) return answer(401, error.message);
      if (error instanceof TooLarge) return answer(413);
      throw error;
    }
    for (const event of events) {
      try {
        for (const { name, handler } of handlers) {
          if (name === "*" || event.type === name || event.type.endsWith(`.${name}`)) await handler(event);
        }
      } catch (error) {
        onError(error, event);
        return answer(500);
      }
    }
    return answer(204);
  };
  const made: Receiver = Object.assign(receive, {
    on(name: string, handler: (event: any) => unknown) {
      handlers.push({ name, handler });
      return made;
    },
  });
  return made;
}
