/** Signed requests of a relay (Standard Webhooks): their verification, and a receiver. */

import { isObject, parseJson, readBytes, TooLarge, variable } from "./json.js";
import type { components } from "./openapi.js";

type Schemas = components["schemas"];

const TOLERANCE_SECONDS = 300;
const MAX_BODY_BYTES = 2 * 1024 * 1024; // a batch has at most 1 MiB
const MAX_SIGNATURES = 100;
const BATCH = "application/cloudevents-batch+json";

/** A CloudEvent. An integer of its data beyond 2^53 is a string of its digits. */
export interface RelayEvent {
  specversion: "1.0";
  id: string;
  source: string;
  type: string;
  subject?: string;
  time?: string;
  /** Number of a job's event, as text that sorts. */
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
  const events = await verifyAll(request, secret, options);
  if (events.length !== 1) {
    throw new VerificationError("unfit_body", `the request has ${events.length} events: use verifyAll`);
  }
  return events[0] as E;
}

/** The events of a request in content mode `structured` or `batch`, in their order. Throws as `verify` does. */
export async function verifyAll(
  request: Request | RawRequest,
  secret: Secret,
  options: VerifyOptions = {},
): Promise<RelayEvent[]> {
  const headers = headersOf(request.headers);
  const body = await bodyOf(request);
  await check(headers, body, [secret].flat(), options.toleranceSeconds ?? TOLERANCE_SECONDS);
  const found = jsonOf(body);
  const events = headers.get("content-type")?.startsWith(BATCH) ? found : [found];
  if (!Array.isArray(events) || !events.every(isEvent)) {
    throw new VerificationError("unfit_body", `the body is signed and no CloudEvent as JSON, nor an array of type ${BATCH}`);
  }
  return events;
}

async function bodyOf(request: Request | RawRequest): Promise<Uint8Array> {
  const { body } = request;
  if (typeof body === "string") return new TextEncoder().encode(body);
  if (body instanceof Uint8Array) return body;
  const isUnread = body instanceof ReadableStream && !body.locked && !("bodyUsed" in request && request.bodyUsed);
  if (body !== null && !isUnread) {
    throw new TypeError("body: give its raw bytes from before any JSON parser, or a Request that was not read");
  }
  return readBytes(body, MAX_BODY_BYTES);
}

function isEvent(value: unknown): value is RelayEvent {
  return isObject(value) && ["specversion", "id", "source", "type"].every((name) => typeof value[name] === "string");
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

  const content = new Uint8Array(await new Blob([`${id}.${timestamp}.`, new Uint8Array(body)]).arrayBuffer());
  const right = await Promise.all(keys.map(async (key) => base64Of(await crypto.subtle.sign("HMAC", key, content))));
  if (!given.some((one) => right.some((signature) => isSame(`v1,${signature}`, one)))) {
    const changed = changeOf(headers, body, id);
    if (changed) {
      throw new VerificationError("changed_body", `the body was changed after it was signed: ${changed}. Verify its raw bytes`);
    }
    throw new VerificationError("wrong_secret", "no signature matches: the secret is another one, or the body was changed");
  }
  const age = Date.now() / 1000 - Number(timestamp);
  if (Math.abs(age) <= toleranceSeconds) return;
  const [reason, off] = age > 0 ? (["old_timestamp", "old"] as const) : (["future_timestamp", "ahead"] as const);
  const detail = `the timestamp is ${Math.round(Math.abs(age))} s ${off}, ${toleranceSeconds} s are allowed`;
  throw new VerificationError(reason, detail);
}

/** Compares in constant time. */
function isSame(one: string, other: string): boolean {
  let difference = one.length ^ other.length;
  for (let at = 0; at < one.length; at++) difference |= one.charCodeAt(at) ^ other.charCodeAt(at);
  return difference === 0;
}

/** Throws TypeError, which does not quote it, if a secret is malformed. */
function rawKeyOf(secret: string): Uint8Array<ArrayBuffer> {
  const bytes = secret.startsWith("whsec_") ? bytesOf(secret.slice("whsec_".length)) : undefined;
  if (bytes === undefined || bytes.length < 24 || bytes.length > 64) {
    throw new TypeError("secret: it must be whsec_ and the base64 of 24 to 64 bytes");
  }
  return bytes;
}

function keyOf(secret: string): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", rawKeyOf(secret), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
}

export function randomSecret(): string {
  return secretOf(crypto.getRandomValues(new Uint8Array(24)));
}

export function secretOf(bytes: Uint8Array): string {
  return `whsec_${base64Of(bytes)}`;
}

function base64Of(bytes: ArrayBuffer | Uint8Array): string {
  return btoa(String.fromCharCode(...new Uint8Array(bytes)));
}

function bytesOf(base64: string): Uint8Array<ArrayBuffer> | undefined {
  try {
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  } catch {
    return undefined;
  }
}

/** The proof that the body is not the one that was signed. */
function changeOf(headers: Pick<Headers, "get">, body: Uint8Array, id: string): string | undefined {
  const length = headers.get("content-length") ?? "";
  if (/^\d+$/.test(length) && Number(length) !== body.length) {
    return `it has ${body.length} bytes, and Content-Length says ${length.slice(0, 20)}`;
  }
  if (!headers.get("content-type")?.includes("json")) return undefined;
  const found = jsonOf(body);
  if (found === undefined) return "it is not complete JSON";
  const own = isObject(found) && "specversion" in found ? found["id"] : undefined;
  // A published event has the id of its program, and webhook-id the relay's.
  const isRelays = typeof own === "string" && own.startsWith("evt_") && id.startsWith("evt_");
  return isRelays && own !== id ? "its event has another id than webhook-id" : undefined;
}

function jsonOf(body: Uint8Array): unknown {
  try {
    return parseJson(new TextDecoder("utf-8", { fatal: true }).decode(body));
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
  /** Gets what a handler throws; the relay sends its event again. Default: `console.error`. */
  onError?: (error: unknown, event: RelayEvent) => void;
}

/**
 * Answers requests of a relay: 204 once the handlers have returned, 401 if it does not verify, 422 if it has no event,
 * 500 if a handler throws or there is none.
 */
export interface Receiver {
  (request: Request): Promise<Response>;
  /** Adds a handler of a type: `job.failed`, `ai.revor.job.failed`, or `*` for all. An event may come twice. */
  on<Name extends string>(name: Name, handler: (event: EventOf<Name>) => unknown): Receiver;
}

/** A receiver for everything that takes a Request: Workers, Deno, Bun, Hono; for Node see `revor-relay-client/node`. */
export function receiver(options: ReceiverOptions = {}): Receiver {
  const secret = options.secret ?? variable("WEBHOOK_SECRET");
  if (secret === undefined || secret.length === 0) throw new TypeError("secret: give one, or set WEBHOOK_SECRET");
  [secret].flat().forEach(rawKeyOf);
  const onError = options.onError ?? ((error) => console.error(error));
  const handlers: { name: string; handler: (event: any) => unknown }[] = [];
  const answer = (status: number, text: string | null = null) => new Response(text, { status });

  const receive = async (request: Request): Promise<Response> => {
    if (request.method === "OPTIONS") {
      const origin = request.headers.get("WebHook-Request-Origin") ?? "";
      if (!origin) return answer(403);
      const agreed = new Headers({ Allow: "POST, OPTIONS", "WebHook-Allowed-Origin": origin });
      if (request.headers.has("WebHook-Request-Rate")) agreed.set("WebHook-Allowed-Rate", "*");
      return new Response(null, { headers: agreed });
    }
    if (!["POST", "PUT", "PATCH"].includes(request.method)) {
      return new Response("send events by POST", { status: 405, headers: { Allow: "POST, OPTIONS" } });
    }
    if (handlers.length === 0) return answer(500, "no handler: add one with on");
    let events: RelayEvent[];
    try {
      events = await verifyAll(request, secret, options);
    } catch (error) {
      if (error instanceof VerificationError) return answer(error.reason === "unfit_body" ? 422 : 401, error.message);
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
