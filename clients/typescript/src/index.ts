/** A client of revor-relay. The fields of bodies and answers have the names of the HTTP API. */

import {
  backoffSeconds,
  unfitAnswer,
  RelayError,
  sleep,
  Transport,
  type CallOptions,
  type RelayOptions,
} from "./http.js";
import { isObject } from "./json.js";
import type { components } from "./openapi.js";
import { frames } from "./sse.js";
import { randomSecret, type RawRequest, type RelayEvent } from "./webhook.js";

export { RelayError, type CallOptions, type RelayOptions } from "./http.js";
export type { components } from "./openapi.js";
export {
  receiver,
  VerificationError,
  verify,
  verifyAll,
  type EventOf,
  type RawRequest,
  type Reason,
  type Receiver,
  type ReceiverOptions,
  type RelayEvent,
  type Secret,
  type VerifyOptions,
} from "./webhook.js";

type Schemas = components["schemas"];
export type Job = Schemas["Job"];
export type RegisteredJob = Schemas["RegisteredJob"];
export type JobRegistration = Schemas["JobRegistration"];
export type UpstreamAnswer = Schemas["UpstreamAnswer"];
export type DeclaredSubscription = Schemas["DeclaredSubscription"];
export type PublishedCloudEvent = Schemas["PublishedCloudEvent"];
export type Publishing = Schemas["Publishing"];

/** An event that is published. Without an `id` it gets a new one. */
export type Draft = Omit<PublishedCloudEvent, "specversion" | "id"> & { id?: string; [extension: string]: unknown };

/** One event of a stream or a pull. `eventId` is the relay's id; a published event's own id is its program's. */
export interface Received {
  eventId: string;
  event: RelayEvent;
}

export interface Delivery extends Received {
  deliveryId: string;
  /** 1, or more if it was handed out before. */
  attempt: number;
}

/** A subscription. `secret` verifies its requests. */
export interface Subscribed {
  id: string;
  secret: string | null;
  action: string;
}

export interface StreamOptions {
  /** Only events of this type: its full name, or a short one such as `failed`. */
  type?: string;
  /** A filter of a subscription, or a list of them. */
  filters?: unknown;
  /** Only the events of this job, from its first one; the stream ends with the job. */
  job?: string;
  /** Begins after this event. Default: with the next one that is recorded. */
  lastEventId?: string;
  /** Ends the stream, which then throws its reason; `break` ends it without. */
  signal?: AbortSignal;
}

export interface PullOptions {
  /** Deliveries of one answer (10). */
  max?: number;
  /** Seconds for which they are leased to this program (60). */
  leaseSeconds?: number;
  /** Ends the pull; untried deliveries go back. */
  signal?: AbortSignal;
  /** Gets what a handler throws; the relay sends its event again by the retry schedule. Default: `console.error`. */
  onError?: (error: unknown, delivery: Delivery) => void;
}

const WAIT_SECONDS = 50; // proxies often end a request after a minute
const PULL_WAIT_SECONDS = 20;
const WELL_SECONDS = 10; // a stream that lasted this long was healthy before it was cut
const MAX_TRIES = 20; // of streams that end at once without an event
const LEAST_SECONDS = 1; // between two immediate answers without a result
const BEFORE_ALL = `evt_${"0".repeat(26)}`;

export class Relay {
  readonly #transport: Transport;

  /** Throws TypeError without an address. */
  constructor(options: RelayOptions = {}) {
    this.#transport = new Transport(options);
  }

  /** Tracks a job by its id, or by the upstream's answer to its create. Tracking it again changes nothing. */
  async track(
    job: string | UpstreamAnswer,
    fields: Partial<JobRegistration> = {},
    options: CallOptions = {},
  ): Promise<RegisteredJob> {
    const body = typeof job === "string" ? { ...fields, id: job } : { ...job, ...fields };
    const answer = await this.#transport.json("POST", "/v1/jobs", { ...options, body });
    return checked(answer, typeof answer["id"] === "string") as RegisteredJob;
  }

  /** The job once it has ended. Throws RelayError `timeout` if it has not after `timeoutSeconds`. */
  async wait(
    id: string,
    options: { timeoutSeconds?: number; signal?: AbortSignal } = {},
  ): Promise<Job> {
    const until = Date.now() + (options.timeoutSeconds ?? Infinity) * 1000;
    for (;;) {
      const began = Date.now();
      const waitSeconds = Math.max(0, Math.min(WAIT_SECONDS, Math.ceil((until - began) / 1000)));
      const answer = await this.#transport.json("GET", `/v1/jobs/${segment(id)}`, {
        headers: { Prefer: `wait=${waitSeconds}` },
        waitSeconds,
        until,
        signal: options.signal,
      });
      const job = checked(answer, typeof answer["open"] === "boolean") as Job;
      if (!job.open) return job;
      if (Date.now() >= until) {
        throw new RelayError(0, "timeout", `job ${id} is still open after ${options.timeoutSeconds} s`);
      }
      await restOf(began, options.signal);
    }
  }

  /** Events as they are recorded. After a cut it resumes: none is skipped or repeated. */
  async *stream(options: StreamOptions = {}): AsyncGenerator<Received, void, undefined> {
    const { job, signal } = options;
    const path = job === undefined ? "/v1/events/stream" : `/v1/jobs/${segment(job)}/events`;
    let last = options.lastEventId ?? (job === undefined ? await this.#newestEvent(signal) : undefined);
    for (let attempt = 0; ; attempt++) {
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (last !== undefined) headers["Last-Event-ID"] = last;
      const began = Date.now();
      const response = await this.#transport.open(path + query(options), headers, signal);
      if (response.status === 204) return; // the job has ended
      try {
        for await (const { id, data } of frames(response, signal)) {
          if (id) last = id;
          attempt = 0;
          yield { eventId: id, event: data as RelayEvent };
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof RelayError) throw error; // else it was cut
      }
      if (Date.now() - began > WELL_SECONDS * 1000) attempt = 0;
      if (attempt >= MAX_TRIES) throw new RelayError(0, "unreachable", "the stream keeps ending at once");
      await sleep(backoffSeconds(attempt), signal);
    }
  }

  /** Publishes one event, or up to 1,000. Throws RelayError if one is refused: `mistakes` has its index as pointer. */
  async publish(events: Draft | readonly Draft[], options: CallOptions = {}): Promise<Publishing> {
    const named = [events].flat().map((event) => ({ id: crypto.randomUUID(), ...event, specversion: "1.0" }));
    const alone = !Array.isArray(events);
    const answer = await this.#transport.json("POST", "/v1/events", {
      ...options,
      body: alone ? named[0] : named,
      contentType: alone ? "application/cloudevents+json" : "application/cloudevents-batch+json",
    });
    const result = checked(answer, Array.isArray(answer["rejected"])) as Publishing;
    if (result.rejected.length > 0) {
      const mistakes = result.rejected.map((one) => ({ ...one, pointer: `/${one.index}${one.pointer ?? ""}` }));
      const detail = `${mistakes.length} of ${named.length} events were refused; the others are recorded`;
      throw new RelayError(202, "rejected", detail, false, mistakes);
    }
    return result;
  }

  /**
   * Creates or changes the subscription `id`. Without a sink its events are pulled. The secret is derived from the
   * token and the id, unless `config.secret` is given: it is the same at each start.
   */
  async subscribe(
    id: string,
    sink?: string | null,
    fields: Partial<DeclaredSubscription> = {},
    options: CallOptions = {},
  ): Promise<Subscribed> {
    const secret = fields.config?.secret ?? (sink ? await this.#transport.secretOf(id) : null);
    const config = secret ? { config: { ...fields.config, secret } } : {};
    const wanted = { ...fields, ...config, id, ...(sink ? { sink } : { protocol: "PULL" }) };
    const body = { subscriptions: [wanted] };
    const answer = await this.#transport.json("POST", "/v1/subscriptions/apply", { ...options, body });
    const { changes } = checked(answer, Array.isArray(answer["changes"])) as Schemas["SubscriptionsApplied"];
    return { id, secret, action: changes[0]?.action ?? "unchanged" };
  }

  /**
   * A signed request with the event of a job's end, as a webhook gets it: to try a receiver. It subscribes for a moment,
   * with a sink that never agrees to get the event. Needs the scope `admin`.
   */
  async signedRequest(
    job: string,
    { timeoutSeconds = 60, ...options }: { timeoutSeconds?: number; signal?: AbortSignal } = {},
  ): Promise<{ request: RawRequest; secret: string }> {
    const secret = randomSecret();
    const { id: subject } = await this.request("GET", `/v1/jobs/${segment(job)}`, undefined, options);
    const subscription = await this.request("POST", "/v1/subscriptions", {
      sink: "https://inbox.invalid/",
      types: ["succeeded", "failed", "cancelled", "not_found"],
      filters: [{ exact: { subject } }],
      description: "revor-relay-client: one signed request",
      config: { kind: "webhook", start: "earliest", handshake: "required", secret },
    }, options);
    const id = String(subscription["id"]);
    try {
      for (const until = Date.now() + timeoutSeconds * 1000; Date.now() < until; await sleep(0.5, options.signal)) {
        const page = await this.request("GET", `/v1/deliveries?subscription=${segment(id)}`, undefined, options);
        const { items } = checked(page, Array.isArray(page["items"])) as Schemas["DeliveryPage"];
        const delivery = items.at(-1);
        if (delivery === undefined) continue;
        const path = `/v1/deliveries/${segment(delivery.id)}/request`;
        const made = await this.request("GET", path, undefined, options);
        checked(made, isObject(made["headers"]) && typeof made["body"] === "string");
        return { request: made as unknown as RawRequest, secret };
      }
      throw new RelayError(0, "timeout", `job ${job} has not ended within ${timeoutSeconds} s`);
    } finally {
      await this.request("DELETE", `/v1/subscriptions/${segment(id)}`);
    }
  }

  /**
   * Pulls until `signal` ends it. An event is acknowledged once its handler has returned; it may come twice, with
   * the same `deliveryId`.
   */
  async pull(
    subscription: string,
    handler: (event: RelayEvent, delivery: Delivery) => unknown,
    options: PullOptions = {},
  ): Promise<void> {
    const { signal, max = 10, leaseSeconds = 60 } = options;
    const onError = options.onError ?? ((error) => console.error(error));
    const path = `/v1/subscriptions/${segment(subscription)}`;
    const post = (action: string, body: unknown, more = {}) =>
      this.#transport.json("POST", `${path}/${action}`, { body, ...more });
    while (!signal?.aborted) {
      const began = Date.now();
      let answer;
      try {
        const body = { max, wait_seconds: PULL_WAIT_SECONDS, lease_seconds: leaseSeconds };
        answer = await post("pull", body, { keyed: false, waitSeconds: PULL_WAIT_SECONDS, signal });
      } catch (error) {
        if (signal?.aborted) return;
        throw error;
      }
      const left = deliveriesOf(answer);
      if (left.length === 0) await restOf(began, signal).catch(() => {});
      const leaseEnds = Date.now() + leaseSeconds * 1000;
      while (left.length > 0 && !signal?.aborted && Date.now() < leaseEnds) {
        const delivery = left.shift() as Delivery;
        let acknowledged = true;
        try {
          await handler(delivery.event, delivery);
        } catch (error) {
          acknowledged = false;
          onError(error, delivery);
        }
        const ids = [delivery.deliveryId];
        const { returned } = await post(acknowledged ? "ack" : "nack", { ids });
        if (Array.isArray(returned)) {
          // Later ones of the same key went back with it: they come again after it.
          left.splice(0, left.length, ...left.filter((one) => !returned.includes(one.deliveryId)));
        }
      }
      if (left.length > 0) await post("nack", { ids: left.map((one) => one.deliveryId), untried: true });
    }
  }

  /** Any other operation below /v1, such as `request("DELETE", "/v1/subscriptions/sub_…")`. */
  request(
    method: "GET" | "POST" | "PUT" | "DELETE",
    path: string,
    body?: unknown,
    options: CallOptions = {},
  ): Promise<Record<string, unknown>> {
    return this.#transport.json(method, path, { ...options, body });
  }

  /** The event after which a stream begins, so that a cut before its first event loses none. */
  async #newestEvent(signal: AbortSignal | undefined): Promise<string> {
    const { ids } = await this.#transport.json("GET", "/v1/events?limit=1", { signal });
    return Array.isArray(ids) && typeof ids[0] === "string" ? ids[0] : BEFORE_ALL;
  }
}

function checked(answer: Record<string, unknown>, holds: boolean): unknown {
  if (!holds) throw unfitAnswer(200, "a field is missing");
  return answer;
}

function deliveriesOf(answer: Record<string, unknown>): Delivery[] {
  const items = answer["items"];
  checked(answer, Array.isArray(items));
  return (items as unknown[]).map((item) => {
    const holds = isObject(item) && typeof item["delivery_id"] === "string" && isObject(item["event"]);
    if (!holds) throw unfitAnswer(200, "a delivery has no id or no event");
    return {
      deliveryId: String(item["delivery_id"]),
      eventId: String(item["event_id"]),
      attempt: Number(item["attempt"]),
      event: item["event"] as unknown as RelayEvent,
    };
  });
}

/** Waits until LEAST_SECONDS have passed since then, so that a server that never waits is not flooded. */
async function restOf(began: number, signal: AbortSignal | undefined): Promise<void> {
  await sleep(Math.max(0, LEAST_SECONDS - (Date.now() - began) / 1000), signal);
}

function query({ type, filters }: StreamOptions): string {
  const given = new URLSearchParams();
  if (type !== undefined) given.set("type", type);
  if (filters !== undefined) given.set("filters", JSON.stringify(filters));
  return given.size ? `?${given}` : "";
}

/** An id as a part of a path. A URL cannot have `.` and `..` there. */
function segment(id: string): string {
  if (/^\.?\.?$/.test(id)) throw new TypeError(`${JSON.stringify(id)} cannot stand in a path: use the relay's own id`);
  return encodeURIComponent(id);
}
