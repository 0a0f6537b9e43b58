// What pages do beyond HTML: times, keys, copying, the theme, and the state of the live connection.
// Every page works without it.
"use strict";

const find = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- times: relative, with the local time on hover

const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });
const ABSOLUTE = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" });

function relative(seconds) {
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? ["second", 1];
  return RELATIVE.format(Math.round(seconds / size), unit).replace(".", "");
}

function showTimes(root = document) {
  for (const element of find("time[datetime]", root)) {
    const at = Date.parse(element.dateTime);
    if (Number.isNaN(at)) continue;
    const due = element.closest("[data-due]");
    if (due && at <= Date.now()) {
      due.textContent = due.dataset.due;
      continue;
    }
    const text = relative((at - Date.now()) / 1000);
    if (element.textContent !== text) element.textContent = text;
    const title = ABSOLUTE.format(at);
    if (element.title !== title) element.title = title;
  }
}

// --- keys: / searches, ? helps, g and a letter goes to a page, Escape folds what asks

let waitsForPlace = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = event.target;
  const asks = event.key === "Escape" && at instanceof Element && at.closest("details:is(.confirm, .menu)[open]");
  if (asks) {
    asks.open = false;
    asks.querySelector("summary").focus();
    return;
  }
  if (at instanceof HTMLElement && (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName))) return;
  if (waitsForPlace) {
    waitsForPlace = false;
    const link = find("a[data-key]").find((one) => one.dataset.key === event.key);
    if (link) {
      event.preventDefault();
      link.click();
    }
  } else if (event.key === "g") {
    waitsForPlace = true;
    setTimeout(() => (waitsForPlace = false), 1500);
  } else if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    event.preventDefault();
    if (field) field.focus();
    else location.href = "/ui/jobs#search";
  } else if (event.key === "?") {
    event.preventDefault();
    document.getElementById("help")?.showModal();
  }
});

// --- buttons

document.addEventListener("click", async (event) => {
  const button = event.target instanceof Element ? event.target.closest("button, [data-all]") : null;
  if (!button) return;
  if (button.matches("[data-copy]")) {
    const text = button.dataset.copy || button.parentElement.querySelector("code").textContent;
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = button.dataset.copied;
      setTimeout(() => (button.textContent = before), 1500);
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    }
  } else if (button.matches("[data-theme-toggle]")) {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {}
  } else if (button.matches("[data-help]")) {
    document.getElementById("help").showModal();
  } else if (button.matches("[data-all]")) {
    for (const box of find('input[type="checkbox"][name="id"]', button.closest("form"))) box.checked = button.checked;
  }
});

// A form that filters a list is sent when a choice changes.
document.addEventListener("change", (event) => {
  const form = event.target instanceof HTMLElement ? event.target.closest("form[data-filter]") : null;
  if (form && event.target.tagName === "SELECT") form.requestSubmit();
});

// --- the live connection: `relay/web/live.py` says what the events mean. A hidden tab has none.

const SILENT_MS = 35_000; // three beats
const RETRY_MS = 10_000;
const live = document.getElementById("live");
let stream = null;
let asking = false; // htmx's first request is on its way
let heardAt = 0;
let retryTimer = 0;

function showLive(kind) {
  const state = document.getElementById("live-state");
  if (!state) return;
  state.hidden = false;
  state.classList.toggle("lost", kind !== "live");
  if (state.textContent !== state.dataset[kind]) state.textContent = state.dataset[kind];
}

function connect() {
  clearTimeout(retryTimer);
  if (!live || stream || asking || document.hidden) return;
  window.htmx?.trigger(live, "connect");
  if (!asking) retryTimer = setTimeout(connect, 500); // htmx has not read the page yet
}

function connectLater() {
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, RETRY_MS);
}

function lost(status) {
  if (status === 401) location.reload(); // the session is over: the page leads to the login page
  else showLive("lost");
}

if (live) {
  live.addEventListener("htmx:config:request", () => (asking = true));
  live.addEventListener("htmx:finally:request", () => (asking = false));
  live.addEventListener("htmx:sse:after:connection", (event) => {
    stream = event.detail.connection;
    heardAt = Date.now();
  });
  live.addEventListener("htmx:sse:before:connection", () => (heardAt = Date.now()));
  live.addEventListener("htmx:sse:after:message", () => (heardAt = Date.now()));
  live.addEventListener("htmx:sse:error", (event) => lost(event.detail.status));
  live.addEventListener("htmx:sse:close", () => {
    stream = null;
    connectLater();
  });
  // The first request is htmx's own, which does not ask again.
  for (const failed of ["htmx:error", "htmx:response:error"]) {
    live.addEventListener(failed, (event) => {
      if (stream) return;
      lost(event.detail.ctx?.response?.status);
      connectLater();
    });
  }
  live.addEventListener("live", () => showLive("live"));
  live.addEventListener("later", () => showLive("later"));
  live.addEventListener("failed", () => showLive("lost"));
  // What comes is made ready before it is compared with what is there, so that nothing flickers.
  live.addEventListener("htmx:before:swap", (event) => event.detail.tasks.forEach((task) => prepare(task.fragment)));
  document.addEventListener("visibilitychange", connect);
  addEventListener("load", () => setTimeout(connect));
  setInterval(() => {
    if (!stream || document.hidden || Date.now() - heardAt < SILENT_MS) return;
    showLive("lost");
    heardAt = Date.now();
    stream.reader?.cancel(); // a connection that died without a word: htmx opens another one
  }, 5000);
}

// --- all of it

function prepare(root) {
  if (!root) return;
  showTimes(root);
  find("[data-copy], [data-theme-toggle], [data-help], [data-script]", root).forEach((one) => (one.hidden = false));
}

prepare(document);
setInterval(() => showTimes(), 1000);

// From a page without a search: after the browser has searched for an element of this name.
if (location.hash === "#search") addEventListener("load", () => setTimeout(() => document.querySelector("[data-search]")?.focus()));

// Shows the notice of an action once, and not again after a reload.
if (/[?&]done=/.test(location.search)) {
  const query = new URLSearchParams(location.search);
  for (const name of ["done", "n", "seal"]) query.delete(name);
  history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : "") + location.hash);
}
