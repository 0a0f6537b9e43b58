/** One request to the relay: its errors, and which of them are sent again. */

import { isObject, parseJson, readBytes, TooLarge, variable } from "./json.js";
import type { components } from "./openapi.js";
import { secretOf } from "./webhook.js";

type Mistake = components["schemas"]["Mistake"];

const FIRST_PAUSE_SECONDS = 0.2;
const LONGEST_PAUSE_SECONDS = 10;
const MAX_DETAIL = 1000;
/** A 500 may have been carried out. A 502 with a code is about a sink. */
const TRANSIENT = [408, 425, 429, 503, 504];

/** Why a call failed. `code` is for programs, `message` for people. Neither has the token. */
export class RelayError extends Error {
  override readonly name = "RelayError";

  /**
   * @param status of the answer; 0 without one
   * @param code the relay's, or `unreachable`, `timeout`, `unfit_answer`, `rejected`
   * @param detail what is wrong, in a sentence
   * @param requestId of the answer, which the relay's log and audit name
   * @param mistakes in the request
   * @param retryAfterSeconds what the answer's `Retry-After` says
   * @param transient true if the same request may succeed later
   */
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly transient: boolean = false,
    readonly mistakes: readonly Mistake[] = [],
    readonly retryAfterSeconds?: number,
    readonly requestId?: string,
  ) {
    super(`${status ? `${status} ` : ""}${code}: ${detail}`);
  }
}

export interface RelayOptions {
  /** The relay's address. Default: the variable RELAY_URL, or http://127.0.0.1:8080. */
  url?: string;
  /** A token of the relay. Default: the variable RELAY_TOKEN. With neither, none is sent. */
  token?: string;
  /** Time limit of the retries of a call, in seconds (60). */
  retrySeconds?: number;
  /** Time limit of an answer, in seconds (30), beyond the wait that was requested. */
  timeoutSeconds?: number;
  fetch?: typeof fetch;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call; it throws the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Key of a POST. Default: a new one for each call, the same in its retries. */
  idempotencyKey?: string | undefined;
}

export interface Sent extends CallOptions {
  body?: unknown;
  contentType?: string;
  headers?: Record<string, string>;
  /** Time that the relay may wait before it answers. */
  waitSeconds?: number;
  /** False for a POST without a key that is safe to repeat. */
  keyed?: boolean;
  /** End of the retries, in epoch milliseconds. */
  until?: number;
}

export class Transport {
  readonly #url: string;
  /** True until a server has answered at the default address: RELAY_URL was perhaps forgotten. */
  #isGuess: boolean;
  readonly #token: string;
  readonly #retrySeconds: number;
  readonly #timeoutSeconds: number;
  readonly #fetch: typeof fetch;

  /** Throws TypeError if the address or the token is malformed. */
  constructor(options: RelayOptions) {
    const given = options.url ?? variable("RELAY_URL");
    this.#isGuess = given === undefined;
    this.#url = checkedUrl(given ?? "http://127.0.0.1:8080");
    this.#token = options.token ?? variable("RELAY_TOKEN") ?? "";
    if (!/^[!-~]*$/.test(this.#token)) throw new TypeError("token: it must be printable ASCII without white space");
    this.#retrySeconds = options.retrySeconds ?? 60;
    this.#timeoutSeconds = options.timeoutSeconds ?? 30;
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  /** A signing secret derived from the token and a name; null without a token. The Python client derives the same. */
  async secretOf(name: string): Promise<string | null> {
    if (!this.#token) return null;
    const bytes = (text: string) => new TextEncoder().encode(text);
    const key = await crypto.subtle.importKey("raw", bytes(this.#token), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
    return secretOf(new Uint8Array(await crypto.subtle.sign("HMAC", key, bytes(`revor-relay-client/subscription/${name}`))));
  }

  /** The JSON object of a 2xx. */
  json(method: string, path: string, sent: Sent = {}): Promise<Record<string, unknown>> {
    return this.#repeated(method, path, sent, async (response) => {
      const answer = await readJson(response);
      if (!isObject(answer)) throw unfitAnswer(response.status, "it is not a JSON object");
      return answer;
    });
  }

  /** An answer whose body is still to be read, without a limit of time. */
  open(path: string, headers: Record<string, string>, signal: AbortSignal | undefined): Promise<Response> {
    return this.#repeated("GET", path, { headers, signal }, async (response) => response);
  }

  /** Sends until it succeeds, cannot succeed, or `retrySeconds` are over. A key is made once, before the first try. */
  async #repeated<T>(
    method: string,
    path: string,
    sent: Sent,
    read: (response: Response) => Promise<T>,
  ): Promise<T> {
    if (!new URL(this.#url + path).href.startsWith(`${this.#url}/v1/`)) {
      throw new TypeError(`path: it must begin with /v1/, ${JSON.stringify(path.slice(0, 100))} does not`);
    }
    const headers: Record<string, string> = { Accept: "application/json", ...sent.headers };
    if (this.#token) headers["Authorization"] = `Bearer ${this.#token}`;
    if (sent.body !== undefined) headers["Content-Type"] = sent.contentType ?? "application/json";
    if (method === "POST" && sent.keyed !== false) {
      headers["Idempotency-Key"] = sent.idempotencyKey ?? crypto.randomUUID();
    }
    const init: RequestInit = { method, headers, redirect: "manual" };
    if (sent.body !== undefined) init.body = JSON.stringify(sent.body);
    const until = Math.min(Date.now() + this.#retrySeconds * 1000, sent.until ?? Infinity);
    const seconds = this.#timeoutSeconds + (sent.waitSeconds ?? 0);
    for (let attempt = 0; ; attempt++) {
      sent.signal?.throwIfAborted();
      const ending = new AbortController();
      const end = () => ending.abort();
      const timer = setTimeout(end, milliseconds(seconds));
      sent.signal?.addEventListener("abort", end);
      let error: RelayError;
      try {
        const response = await this.#fetch(this.#url + path, { ...init, signal: ending.signal });
        this.#isGuess = false;
        if (!response.ok) throw await problem(response, this.#shown);
        return await read(response);
      } catch (thrown) {
        sent.signal?.throwIfAborted();
        error = this.#told(thrown, ending.signal.aborted ? seconds : undefined);
      } finally {
        clearTimeout(timer);
        sent.signal?.removeEventListener("abort", end);
      }
      const pauseSeconds = (error.retryAfterSeconds ?? 0) + backoffSeconds(attempt);
      if (!error.transient || Date.now() + pauseSeconds * 1000 > until) throw error;
      await sleep(pauseSeconds, sent.signal);
    }
  }

  #told(thrown: unknown, timedOutAfter: number | undefined): RelayError {
    if (thrown instanceof RelayError) return thrown;
    if (thrown instanceof TooLarge) return unfitAnswer(0, thrown.message);
    if (timedOutAfter !== undefined) return new RelayError(0, "timeout", `no answer within ${timedOutAfter} s`, true);
    // In Node the cause of the error has the words.
    const error = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause : thrown;
    const why = this.#shown(error instanceof Error ? error.message || error.name : String(error));
    const isRefused = isObject(error) && error["code"] === "ECONNREFUSED"; // nothing was sent
    const fix = isRefused ? "Start it, or set RELAY_URL to its address" : "Check RELAY_URL";
    const detail = `no relay answers at ${this.#url}: ${why}. ${fix}`;
    return new RelayError(0, "unreachable", detail, !(isRefused && this.#isGuess));
  }

  /** A text from outside, cut, and without the token, which an answer may repeat. */
  #shown = (value: unknown): string => {
    if (typeof value !== "string") return "";
    return (this.#token ? value.replaceAll(this.#token, "[token]") : value).slice(0, MAX_DETAIL);
  };
}

/** A pause before the next try: random, on average longer each time. */
export function backoffSeconds(attempt: number): number {
  return Math.random() * Math.min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** attempt);
}

/** Capped at the maximum of a timer: a longer time would end at once. */
function milliseconds(seconds: number): number {
  return Math.min(seconds * 1000, 2 ** 31 - 1);
}

export async function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds(seconds));
    signal?.addEventListener("abort", done);
    if (signal?.aborted) done();
  });
  signal?.throwIfAborted();
}

export function unfitAnswer(status: number, why: string): RelayError {
  return new RelayError(status, "unfit_answer", `the answer is not a relay's: ${why}`);
}

function checkedUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash) {
    throw new TypeError("url: it must be like https://relay.example.com, without a user, a query or a fragment");
  }
  return url.href.replace(/\/+$/, "");
}

async function readJson(response: Response): Promise<unknown> {
  const text = new TextDecoder().decode(await readBytes(response.body));
  try {
    return parseJson(text);
  } catch {
    throw unfitAnswer(response.status, "it is not JSON");
  }
}

/** The error that an answer other than 2xx stands for. */
async function problem(response: Response, shown: (value: unknown) => string): Promise<RelayError> {
  const { status } = response;
  if (status < 400) {
    response.body?.cancel().catch(() => {});
    return new RelayError(status, "unfit_answer", "the answer is a redirect: set the relay's own address as url");
  }
  const retryAfter = retryAfterSeconds(response.headers.get("Retry-After"));
  const requestId = shown(response.headers.get("X-Request-Id"));
  let found: unknown;
  try {
    found = await readJson(response);
  } catch (error) {
    if (!(error instanceof RelayError || error instanceof TooLarge)) throw error; // cut off
  }
  if (!isObject(found) || typeof found["code"] !== "string") {
    const transient = status === 502 || TRANSIENT.includes(status);
    const detail = "the answer is not a relay's: it is not a problem document";
    return new RelayError(status, "unfit_answer", detail, transient, [], retryAfter, requestId);
  }
  const code = shown(found["code"]);
  const transient = TRANSIENT.includes(status) || code === "idempotency_in_flight";
  const mistakes = (Array.isArray(found["errors"]) ? found["errors"] : []).filter(isObject).map((one) => ({
    pointer: shown(one["pointer"]),
    code: shown(one["code"]),
    detail: shown(one["detail"]),
  }));
  return new RelayError(status, code, shown(found["detail"]), transient, mistakes, retryAfter, requestId);
}

/** Seconds until the time that `Retry-After` names, in either of its forms. */
function retryAfterSeconds(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\s*\d+\s*$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}
