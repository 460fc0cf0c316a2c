// What the page does better with a script: it draws the charts, and goes from view to view without loading anew.
// Names, numbers and links come out of the page's own tables; nothing of a caller's is ever used as markup or code.

const view = () => document.getElementById("view");

// ---- Charts -------------------------------------------------------------------------------------------------------

let drawn = []; // a drawn chart each: { plot, rows, embed, spec, themes, cursor }
let vega; // the library's loading, begun once

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const theme = () => document.documentElement.dataset.theme || (isDark() ? "dark" : "light");

function library() {
  vega ??= import(document.body.dataset.vega).then(() => window.vegaEmbed);
  return vega;
}

async function draw() {
  for (const one of drawn) one.embed?.finalize();
  const these = (drawn = [...document.querySelectorAll("[data-chart]")].map(chartOf));
  for (const chart of these) {
    try {
      await show(chart);
    } catch (error) {
      console.error(error);
      chart.target.textContent = "The chart could not be drawn. The table has its numbers.";
      chart.plot.dataset.drawn = "";
    }
    await new Promise((done) => setTimeout(done)); // the first one is seen before the next is begun
    if (these !== drawn) return; // another view came meanwhile
  }
}

function chartOf(plot) {
  const { spec, themes } = JSON.parse(plot.querySelector('script[type="application/json"]').textContent);
  const { chart: id, by } = plot.dataset;
  const chart = { plot, spec, themes, by, cursor: -1, table: document.getElementById(`table-${id}`) };
  chart.target = plot.querySelector(".chart") ?? child(plot, "div", "chart");
  chart.tip = plot.querySelector(".tip") ?? child(plot, "div", "tip");
  chart.tip.hidden = true;
  chart.tip.setAttribute("role", "status");
  if (!plot.dataset.heard) {
    plot.dataset.heard = "";
    plot.addEventListener("keydown", (event) => onKey(current(plot), event));
    plot.addEventListener("blur", () => point(current(plot), -1));
    plot.addEventListener("pointerleave", () => point(current(plot), -1));
  }
  return chart;
}

// A plot stays when its chart is drawn anew for another theme.
const current = (plot) => drawn.find((chart) => chart.plot === plot);

async function show(chart) {
  const embed = await library();
  if (!chart.plot.isConnected || current(chart.plot) !== chart) return;
  // `ast`: expressions are interpreted, not compiled, so the page needs no right to evaluate text as code.
  chart.embed = await embed(chart.target, chart.spec, {
    ast: true, actions: false, renderer: "svg", defaultStyle: false, config: chart.themes[theme()], tooltip: false,
  });
  // The figure is described by its container; a thousand bars are no better read one by one.
  chart.target.setAttribute("aria-hidden", "true");
  for (const name of ["role", "aria-roledescription", "aria-label"]) chart.target.removeAttribute(name);
  chart.embed.view.addEventListener("pointermove", (event, item) => point(chart, item?.datum?.i ?? -1, event));
  chart.embed.view.addEventListener("click", (event, item) => follow(chart, item?.datum?.i ?? -1));
  chart.plot.dataset.drawn = "";
}

// ---- What is under the pointer, or under the arrow keys -------------------------------------------------------------

const rowsOf = (chart) => chart.table?.tBodies[0].rows ?? [];

function point(chart, index, event) {
  if (!chart?.embed) return;
  if (index !== chart.cursor) {
    chart.cursor = index;
    chart.embed.view.signal("cursor", index).runAsync();
    fill(chart, index);
    chart.target.style.cursor = index >= 0 && linkOf(chart, index) ? "pointer" : "";
  }
  if (index >= 0) place(chart, event);
}

function linkOf(chart, index) {
  return rowsOf(chart)[index]?.querySelector("a")?.href;
}

function follow(chart, index) {
  const link = index >= 0 && linkOf(chart, index);
  if (link) go(link);
}

const MOST_LINES = 12;

function fill(chart, index) {
  const row = rowsOf(chart)[index];
  chart.tip.replaceChildren();
  chart.tip.hidden = !row || chart.by === "total";
  if (chart.tip.hidden) return;
  child(chart.tip, "b", "", row.cells[0].textContent);
  const list = child(chart.tip, "dl", "");
  const lines = [...row.cells].slice(1).map((cell, i) => ({ head: chart.table.tHead.rows[0].cells[i + 1], text: cell.textContent }));
  const shown = lines.length > 1 ? lines.filter(({ text }) => text !== "0" && text !== "–") : lines;
  for (const { head, text } of shown.slice(0, MOST_LINES)) {
    child(list, "i", head.querySelector(".swatch")?.className ?? "");
    child(list, "dt", "", head.textContent);
    child(list, "dd", "", text);
  }
  if (!shown.length) child(chart.tip, "p", "", "Nothing");
  if (shown.length > MOST_LINES) child(chart.tip, "p", "", `and ${shown.length - MOST_LINES} more`);
}

function place(chart, event) {
  if (chart.tip.hidden) return;
  const box = chart.plot.getBoundingClientRect();
  let x, y;
  if (event) {
    x = event.clientX - box.left;
    y = event.clientY - box.top;
  } else {
    const plotted = chart.target.querySelector(".background")?.getBoundingClientRect() ?? box;
    x = plotted.left - box.left + (plotted.width * (chart.cursor + 0.5)) / rowsOf(chart).length;
    y = 30;
  }
  const right = x + 18 + chart.tip.offsetWidth > box.width;
  chart.tip.style.left = `${Math.max(0, right ? x - 18 - chart.tip.offsetWidth : x + 18)}px`;
  chart.tip.style.top = `${Math.max(0, Math.min(y - 20, box.height - chart.tip.offsetHeight))}px`;
}

function onKey(chart, event) {
  const count = rowsOf(chart).length;
  const to = { ArrowLeft: chart.cursor - 1, ArrowRight: chart.cursor + 1, Home: 0, End: count - 1 }[event.key];
  if (event.key === "Enter" && chart.cursor >= 0) follow(chart, chart.cursor);
  else if (event.key === "Escape") point(chart, -1);
  else if (to !== undefined && count) point(chart, Math.max(0, Math.min(count - 1, to)));
  else return;
  event.preventDefault();
}

function child(parent, name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

// ---- From view to view ----------------------------------------------------------------------------------------------

let asked = 0; // only the newest question may answer

async function go(address, { push = true } = {}) {
  const mine = ++asked;
  view().setAttribute("aria-busy", "true");
  let response, text;
  try {
    response = await fetch(address, { headers: { accept: "text/html" } });
    text = await response.text();
  } catch {
    if (mine === asked) complain("The service cannot be reached. Try again in a moment.");
    return;
  }
  if (mine !== asked) return;
  const next = new DOMParser().parseFromString(text, "text/html");
  for (const one of next.querySelectorAll("noscript")) one.remove(); // parsed as if there were no script: their images would load
  const fresh = next.getElementById("view");
  if (!fresh) {
    location.assign(address);
    return;
  }
  if (push && response.url !== location.href) history.pushState(null, "", response.url);
  const focused = controlPath(document.activeElement);
  document.title = next.title;
  document.querySelector(".complaint")?.remove();
  view().replaceWith(document.adoptNode(fresh));
  focused?.()?.focus({ preventScroll: true });
  begin();
}

// What went wrong, above the view that there still is.
function complain(text) {
  view().removeAttribute("aria-busy");
  document.querySelector(".complaint")?.remove();
  const place = child(document.body, "p", "complaint", text);
  place.setAttribute("role", "alert");
  view().before(place);
}

// The control that had the focus has it again in the new view.
function controlPath(element) {
  const { name, value, type } = element ?? {};
  if (!name || !element.form) return null;
  const suffix = type === "radio" || type === "checkbox" ? `[value="${CSS.escape(value)}"]` : "";
  return () => document.querySelector(`[name="${CSS.escape(name)}"]${suffix}`);
}

function addressOf(form) {
  return `${form.action.split("?")[0]}?${new URLSearchParams(new FormData(form))}`;
}

document.addEventListener("change", ({ target }) => {
  if (target.form?.id !== "controls" || target.dataset.tail !== undefined) return;
  if (target.name === "range" && target.value === "custom") return; // the two dates come next
  go(addressOf(target.form));
});
document.addEventListener("submit", (event) => {
  const form = event.target;
  event.preventDefault();
  if (form.matches(".picker .search")) pick(addressOf(form));
  else go(addressOf(form));
});
document.addEventListener("click", (event) => {
  const row = event.target.closest?.(".calls tbody tr");
  if (row && !event.target.closest("a") && getSelection().isCollapsed && !event.button) row.querySelector("a").click();
  const link = event.target.closest?.("a[data-view], a[data-pick]");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  // A link may lead to another page, which then loads as pages do.
  if (new URL(link.href).pathname !== location.pathname && !(location.pathname === "/" && link.pathname === "/usage")) return;
  event.preventDefault();
  if (link.dataset.pick !== undefined) pick(link.href);
  else go(link.href);
});
addEventListener("popstate", () => go(location.href, { push: false }));

// ---- Filters --------------------------------------------------------------------------------------------------------

let picking = 0; // only the newest question may answer

// The values of a filter, without the rest of the page: `/picker/usage` is the picker of `/usage`.
async function pick(address) {
  const mine = ++picking;
  const url = new URL(address, location.href);
  url.pathname = `/picker${url.pathname === "/" ? "/usage" : url.pathname}`;
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) return go(address);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector(".picker");
  if (mine !== picking) return;
  const place = document.querySelector(".picked");
  const typed = document.activeElement?.name === "find" ? document.activeElement.value : null;
  place.replaceChildren(document.adoptNode(fresh));
  const search = place.querySelector("[name=find]");
  if (typed !== null) search.value = typed;
  search.focus();
  for (const link of document.querySelectorAll("a[data-pick]")) {
    const chosen = new URL(link.href).searchParams.get("pick") === fresh.dataset.for;
    chosen ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
}

let typing;
document.addEventListener("input", ({ target }) => {
  if (!target.matches(".picker [name=find]")) return;
  clearTimeout(typing);
  typing = setTimeout(() => pick(addressOf(target.form)), 150);
});
document.addEventListener("pointerdown", ({ target }) => {
  const open = document.querySelector(".adder[open]");
  if (open && !open.contains(target)) open.open = false;
});
document.addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector(".adder[open]");
  if (!open) return;
  open.open = false;
  open.querySelector("summary").focus();
});

// ---- The live tail of the log: the server says that calls came, and the table is asked for anew ------------------------

let tail = null;

document.addEventListener("change", ({ target }) => {
  if (target.dataset.tail === undefined) return;
  tail?.close();
  tail = target.checked ? new EventSource(target.dataset.tail) : null;
  let waiting = null;
  if (tail) tail.onmessage = () => (waiting ??= setTimeout(() => { waiting = null; refresh(); }, 400));
});

async function refresh() {
  const response = await fetch(location.href).catch(() => null); // the next call to come tries again
  if (!response?.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector(".calls tbody");
  const shown = document.querySelector(".calls tbody");
  if (!tail || !fresh) return;
  if (!shown) return go(location.href, { push: false });
  const known = new Set([...shown.rows].map((row) => row.id));
  for (const row of fresh.rows) if (!known.has(row.id)) row.classList.add("new");
  shown.replaceWith(document.adoptNode(fresh));
}

// ---- Theme, zones, and the beginning --------------------------------------------------------------------------------

const toggle = document.querySelector(".theme");
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const chosen = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try { localStorage.setItem("theme", chosen); } catch { /* then for this page only */ }
  draw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

function offerZones() {
  const list = document.getElementById("zones");
  if (!list || !Intl.supportedValuesOf) return;
  const names = new Set(["UTC", Intl.DateTimeFormat().resolvedOptions().timeZone, ...Intl.supportedValuesOf("timeZone")]);
  list.replaceChildren(...[...names].map((name) => Object.assign(document.createElement("option"), { value: name })));
}

function begin() {
  offerZones();
  for (const one of document.querySelectorAll(".live")) one.hidden = false;
  const tailing = document.querySelector("[data-tail]");
  if (!tailing) { tail?.close(); tail = null; }
  else if (tail) { tailing.checked = true; tailing.dispatchEvent(new Event("change", { bubbles: true })); }
  draw();
}

begin();
