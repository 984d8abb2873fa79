"use strict";
// Everything shown is set as text, never as markup: names come from users.
const NUMBERS = new Set(["in flight", "running", "waiting", "KV cache", "prefix hits", "scraped", "memory", "restarts", "loop lag"]);

function fill(id, columns, rows) {
  const table = document.getElementById(id);
  table.replaceChildren();
  const head = table.insertRow();
  for (const name of columns) {
    const cell = document.createElement("th");
    cell.textContent = name;
    if (NUMBERS.has(name)) cell.className = "number";
    head.append(cell);
  }
  for (const row of rows) {
    const line = table.insertRow();
    row.forEach((value, i) => {
      const cell = line.insertCell();
      const [text, kind] = Array.isArray(value) ? value : [value, ""];
      cell.textContent = text === null || text === undefined ? "–" : String(text);
      cell.className = (NUMBERS.has(columns[i]) ? "number " : "") + kind;
    });
  }
}

const percent = (value) => (value === null ? null : Math.round(value * 100) + " %");
const whole = (value) => (value === null ? null : Math.round(value));
const seconds = (value) => (value === null ? ["never", "bad"] : [value.toFixed(1) + " s ago", value > 5 ? "bad" : "good"]);

const standing = (one) => [one.state + (one.state_seconds_left ? ` ${Math.round(one.state_seconds_left)} s` : ""),
  one.state === "ejected" || one.state === "probing" ? "bad" : "good"];

function show(state) {
  const serving = state.workers.filter((one) => one.state === "serving").length;
  const scraped = state.endpoints.filter((one) => one.scrape_age_seconds !== null && one.scrape_age_seconds < 5).length;
  document.getElementById("sentence").textContent =
    `${serving} of ${state.workers.length} workers serve ${state.routes.length} routes to ${state.endpoints.length} endpoints, ` +
    `${scraped} of them seen lately. Controllers ${state.snapshot.controllers_heard ? "are heard" : "are not heard: serving the last snapshot"}. ` +
    `Version ${state.penstock}.`;
  fill("endpoints", ["endpoint", "server", "role", "state", "in flight", "running", "waiting", "KV cache", "prefix hits", "scraped"],
    state.endpoints.map((one) => [one.name, one.server, one.role, standing(one), one.in_flight, whole(one.running), whole(one.waiting),
      percent(one.kv_usage), percent(one.prefix_hit_ratio), seconds(one.scrape_age_seconds)]));
  fill("routes", ["route", "model", "adapters", "targets"],
    state.routes.map((one) => [one.name, one.model, one.adapters.join(", "),
      [one.targets.join(", "), one.missing_servers.length ? "bad" : ""]]));
  fill("workers", ["worker", "process", "state", "in flight", "waiting", "memory", "loop lag", "restarts"],
    state.workers.map((one) => [one.index, one.process, [one.state, one.state === "serving" ? "good" : "bad"], one.in_flight, one.waiting,
      Math.round(one.resident_bytes / 1048576) + " MB", (one.loop_lag_seconds * 1000).toFixed(1) + " ms", one.restarts]));
}

async function refresh() {
  try {
    show(await (await fetch("/debug/state")).json());
  } catch (error) {
    document.getElementById("sentence").textContent = "The gateway does not answer.";
  }
  setTimeout(refresh, 1000);
}
refresh();
