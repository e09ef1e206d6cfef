// Asks the daemon every two seconds, and shows what it says. Names are somebody's text: they get
// into the page as text alone (textContent, append), never as markup.
"use strict";

const EVERY = 2000;
const $ = (id) => document.getElementById(id);

function made(name, options, ...children) {
  const { kind, ...rest } = options || {};
  const element = document.createElement(name);
  if (kind) element.className = kind;
  for (const [key, value] of Object.entries(rest)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (bytes >= 1000 && at < units.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  const digits = at === 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2;
  return `${String(Number(bytes.toFixed(digits)))} ${units[at]}`;
}

const rate = (bytes) => `${size(bytes)}/s`;
const share = (part) => `${Math.round(part * 100)} %`;
const number = (value) => value.toLocaleString("en");

// Of a whole: neither nothing where there is something, nor all where something is missing.
function percent(part) {
  return part > 0 && part < 0.01 ? "under 1 %" : `${Math.floor(part * 100)} %`;
}

function span(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

const ago = (seconds) => (seconds < 1 ? "now" : `${span(seconds)} ago`);

function state(healthy, text) {
  return made("span", { kind: `state ${healthy ? "good" : "bad"}` }, `${healthy ? "✓" : "✗"} ${text}`);
}

function meter(part) {
  const svg = drawn("svg", { class: "meter", viewBox: "0 0 100 6", preserveAspectRatio: "none",
    "aria-hidden": "true" });
  svg.append(drawn("rect", { width: 100 * Math.min(1, part), height: 6 }));
  return svg;
}

// rows: of each its cells, in the order of the heads: text, elements or a list of them.
function fill(body, rows, none) {
  const table = body.closest("table");
  const heads = [...table.querySelectorAll("thead th")];
  table.setAttribute("role", "table");
  body.setAttribute("role", "rowgroup");
  const lines = rows.map((cells) => made("tr", { role: "row" }, ...cells.map((cell, at) => {
    const wide = cell instanceof HTMLDivElement ? "wide" : "";
    return made("td", { role: "cell", "data-head": heads[at].textContent,
      kind: heads[at].className || wide },
      ...(Array.isArray(cell) ? cell : [cell]));
  })));
  if (!lines.length) {
    lines.push(made("tr", {}, made("td", { kind: "none", colspan: heads.length }, none)));
  }
  body.replaceChildren(...lines);
}

function tile(name, value, more) {
  return made("div", {}, made("dt", {}, name), made("dd", { kind: "value" }, value),
    made("dd", { kind: "quiet" }, more));
}

function showNow(said) {
  const { status, history } = said;
  const { cache } = status;
  const last = (name) => (history[name].length ? history[name].at(-1) : 0);
  const reads = cache.hits + cache.misses;
  const tiles = [
    tile("Served", rate(last("served")), `${size(status.reads.bytes_read)} in all`),
    tile("Fetched", rate(last("fetched")), `${size(status.fetcher.fetched_bytes)} in all`),
    tile("Answered at once", reads ? share(cache.hits / reads) : "–", `of ${number(reads)} reads`),
    tile("Cache", size(cache.used), `of ${size(cache.limit)}; evicted: ${size(cache.evicted)}`),
    tile("Open files", number(status.open_files), `${number(status.open_objects)} by way of the cache`),
    tile("Under way", number(status.fetcher.in_flight), status.fetcher.in_flight === 1 ? "request" : "requests"),
  ];
  $("tiles").replaceChildren(...tiles);
}

function showHour(history, limit) {
  const common = { every: history.every, span: spanFor(history.served.length, history.every) };
  const most = Math.max(1, ...history.served, ...history.fetched);
  drawChart($("chart-throughput"), { ...common, title: "Throughput", top: roundUp(most), format: rate,
    lines: [{ name: "served", kind: "one", values: history.served },
      { name: "fetched", kind: "two", values: history.fetched }] });
  drawChart($("chart-hits"), { ...common, title: "Hit rate", top: 1, format: share,
    lines: [{ name: "answered at once", kind: "one", values: history.hit_rate }] });
  drawChart($("chart-cache"), { ...common, title: "Cache", top: roundUp(Math.max(1, ...history.used)),
    note: `of ${size(limit)} at most`, format: size, lines: [{ name: "used", kind: "one", values: history.used, area: true }] });
}

function showPlaces(said) {
  const places = [...said.status.places].sort((a, b) => a.healthy - b.healthy);
  fill($("places"), places.map((place) => [
    place.name,
    place.kind,
    made("div", {}, state(place.healthy, place.healthy ? "healthy" : "in trouble"),
      ...(place.trouble ? [made("span", { kind: "quiet" }, place.trouble)] : [])),
    number(place.objects),
    place.age === null ? "never" : ago(place.age),
  ]), "There are no places.");
  fill($("servers"), said.servers.map((server) => [
    server.name,
    number(server.requests),
    number(server.failures),
    size(server.bytes),
    server.latency === null ? "–" : span(server.latency),
    server.rate === null ? "–" : rate(server.rate),
  ]), "Nothing was fetched yet.");
}

// A path in the mount: its last part is what people look for.
function named(one) {
  const path = one.name || one.source || one.key;
  const cut = path.replace(/\/+$/, "").lastIndexOf("/");
  return [cut < 0 ? path : path.slice(cut + 1), cut < 0 ? "" : path.slice(0, cut)];
}

function showOpen(said) {
  const cards = said.open.map((one) => {
    const [name, where] = named(one);
    const part = one.size ? one.cached / one.size : 1;
    const facts = `${size(one.cached)} of ${size(one.size)} (${percent(part)})`;
    const way = one.fetching ? `, ${number(one.fetching)} blocks being fetched` : "";
    return made("article", { kind: "card" }, made("h3", {}, name),
      made("p", { kind: "quiet" }, where), made("p", {}, facts + way),
      drawMap(one.here, one.under_way, `Map of ${name}: ${facts} in the cache${way}`));
  });
  if (said.open_left_out) cards.push(made("p", { kind: "none" }, `and ${said.open_left_out} more`));
  if (!cards.length) cards.push(made("p", { kind: "card none" }, "No image with blocks in the cache is open."));
  $("open").replaceChildren(...cards);
}

function showObjects(said) {
  fill($("objects"), said.objects.map((one) => {
    const [name, where] = named(one);
    const part = one.size ? one.cached / one.size : 1;
    const marks = [one.open && "open", one.pinned && "pinned",
      one.verified === "yes" && "checksum verified",
      one.verified === "mismatch" && "not what was published"].filter(Boolean).join(", ");
    return [
      [name, made("span", { kind: "quiet" }, [where, marks].filter(Boolean).join(" · "))],
      size(one.size),
      made("div", {}, `${size(one.cached)} (${percent(part)})`, meter(part)),
      size(one.disk),
      one.used ? ago(said.now - one.used) : "–",
    ];
  }), "The cache is empty.");
  $("left-out").textContent = said.left_out ? `and ${number(said.left_out)} smaller ones` : "";
}

function show(said) {
  const { status } = said;
  document.title = `${status.mountpoint} – nebfs`;
  $("mountpoint").textContent = status.mountpoint;
  $("source").textContent = status.source;
  const ill = status.places.filter((place) => !place.healthy).length;
  const health = $("health");
  health.className = `state ${status.healthy ? "good" : "bad"}`;
  const text = status.healthy ? "✓ healthy"
    : ill ? `✗ ${ill} of ${status.places.length} places in trouble` : "✗ degraded";
  if (health.textContent !== text) health.textContent = text;
  warn(status.trouble);
  showNow(said);
  showHour(said.history, status.cache.limit);
  showPlaces(said);
  showOpen(said);
  showObjects(said);
  $("footer").textContent = `nebfs ${status.version}, process ${status.pid}, up for ${span(status.uptime)}; `
    + `cache in ${status.cache.directory || "memory"}`;
}

function warn(text) {
  const banner = $("banner");
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
}

async function ask() {
  try {
    const answer = await fetch("data", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the daemon answered ${answer.status}`);
    show(await answer.json());
    document.documentElement.dataset.shown = "yes";
  } catch (failure) {
    warn(failure instanceof TypeError && failure.message.includes("fetch")
      ? "The mount does not answer any more: 'nebfs dashboard' was ended, or it is unmounted. What is shown is old."
      : `This cannot be shown: ${failure.message}`);
  }
}

async function run() {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((go) => setTimeout(go, EVERY));
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
run();
