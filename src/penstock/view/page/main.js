// Puts the page together.

const data = await load();
const { timelines, unit, kinds } = data;
const chunks = timelines.reduce((most, t) => Math.max(most, t.chunks), 1);
const mostBytes = timelines.reduce(
  (most, t) => t.peaks.reduce((high, at) => (at < 0 ? high : Math.max(high, t.total[at])), most),
  0,
) || 1;
const shown = new Uint8Array(kinds.length).fill(1);
const status = document.getElementById("status");
const panels = timelines.map((t) => makePanel(t, unit));
const charts = Object.entries(Object.groupBy(data.curves, ({ chart }) => chart)).map(([title, curves]) => makeChart(title, curves));

// Draws every panel that is in sight.
redraw = (everything = false) => {
  const begin = performance.now();
  stats.spans = stats.labels = 0;
  for (const panel of panels) {
    const { top, bottom } = panel.stage.getBoundingClientRect();
    if (everything || (bottom > -100 && top < innerHeight + 100)) drawPanel(panel, shown, mostBytes);
  }
  stats.frames++;
  stats.ms = performance.now() - begin;
};

function layOutAll() {
  readTheme(kinds, chunks);
  panels.forEach(layOut);
  redraw(true);
  charts.forEach(drawChart);
}

function tell() {
  const { timeline, op } = selected;
  if (op < 0) return void (status.textContent = "");
  const facts = describe(timeline, barOf(timeline, op), timeline.start[op], unit, timelines).map(([word, value]) => `${word} ${value}`);
  status.textContent = `${barName(timeline, barOf(timeline, op))} (${timeline.label}): ${facts.join(" · ")} · chain of ${selected.path.length} ops`;
}

function choose(timeline, op) {
  select(timelines, timeline, op);
  tell();
}

function letGo() {
  choose(null, -1);
  hideTip();
}

function hovered(panel, { x, y }, event) {
  const found = at(panel, x, y);
  if (!found) return left();
  const { t } = panel;
  showHair(panels, found.time);
  if (found.op >= 0) showTip(barName(t, found.op), describe(t, found.op, found.time, unit, timelines), event.clientX, event.clientY);
  else showTip(`rank ${found.rank} idles`, describeIdle(t, found, unit), event.clientX, event.clientY);
}

function left() {
  hideTip();
  hideHair(panels);
}

function clicked(panel, place, event) {
  const found = at(panel, place.x, place.y);
  if (!found || found.op < 0) return letGo();
  choose(panel.t, found.op);
  if (event.pointerType !== "mouse") hovered(panel, place, event);
}

// From op to op: along the lane, or to the op of the rank above or below at the same time.
function walk(dx, dy) {
  if (selected.op < 0) return timelines.length && go(timelines[0], timelines[0].lane[0] ?? -1);
  const { timeline: t, op } = selected;
  const rank = t.rank[op] + dy;
  if (rank < 0 || rank >= t.ranks) return;
  const [from, to] = [t.laneFirst[rank], t.laneFirst[rank + 1]];
  const place = dy || t.place[op] < 0 ? after(t.laneEnd, from, to, t.start[op] + t.duration[op] / 2) : t.place[op] + dx;
  go(t, t.lane[Math.max(from, Math.min(place, to - 1))]);
}

function go(t, op) {
  if (op < 0) return;
  choose(t, op);
  reveal(t.start[op], barEnd(t, op));
}

function search(text) {
  const parts = /^(\d+)([A-Z]+(?:_[A-Z]+)*)(\d*)$/.exec(text.trim().toUpperCase());
  const kind = parts ? kinds.findIndex(({ name }) => name === parts[2]) : -1;
  for (const t of kind < 0 ? [] : timelines) {
    const op = find(t, kind, Number(parts[1]), parts[3] === "" ? -1 : Number(parts[3]));
    if (op >= 0) return go(t, op);
  }
  status.textContent = `There is no op ${text.trim() || "without a name"}; write stage, kind, micro-batch, for example 2F0.`;
}

// One button per kind of which there are bars; messages share one.
function makeLegend() {
  const present = kinds.map(({ message }, kind) => timelines.some((t) => t.kind.some((one, op) => one === kind && (message || t.holds[op]))));
  const groups = kinds.flatMap(({ message, phrase, colour }, kind) => (present[kind] && !message ? [{ phrase, colour, of: [kind] }] : []));
  const messages = kinds.flatMap(({ message }, kind) => (message && present[kind] ? [kind] : []));
  if (messages.length) groups.push({ phrase: "messages", colour: kinds[messages[0]].colour, of: kinds.flatMap(({ message }, kind) => (message ? [kind] : [])) });
  const legend = document.getElementById("legend");
  for (const { phrase, colour, of } of groups) {
    const swatch = element("i");
    swatch.style.background = colour;
    const button = element("button", { type: "button", title: "Show or hide" }, swatch, phrase);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      of.forEach((kind) => (shown[kind] ^= 1));
      button.setAttribute("aria-pressed", String(Boolean(shown[of[0]])));
      redrawSoon();
    });
    legend.append(button);
  }
}

const DO = {
  in: () => zoom(1.8),
  out: () => zoom(1 / 1.8),
  reset: fit,
  higher: () => stretch(1.4),
  lower: () => stretch(1 / 1.4),
};

function stretch(by) {
  rows.density = Math.min(8, Math.max(0.3, rows.density * by));
  layOutAll();
}

function listen() {
  for (const panel of panels) {
    holdPointers(panel, {
      hovered: (place, event) => hovered(panel, place, event),
      clicked: (place, event) => clicked(panel, place, event),
      left,
    });
  }
  holdKeys(walk, letGo);
  document.getElementById("zoom").addEventListener("click", (event) => DO[event.target.dataset.do]?.());
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(event.target.op.value);
  });
  new ResizeObserver(layOutAll).observe(document.getElementById("panels"));
  document.addEventListener("scroll", redrawSoon, { passive: true });
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", layOutAll);
  addEventListener("beforeprint", layOutAll);
}

view.whole = timelines.reduce((most, t) => Math.max(most, t.step), 0) * 1.002 || 1;
view.least = view.whole * 1e-7;
document.getElementById("panels").append(...panels.map(({ section }) => section));
document.getElementById("charts").append(...charts.map(({ section }) => section));
document.getElementById("bar").hidden = timelines.length === 0;
makeLegend();
moveTo(0, data.until ?? view.whole);
layOutAll();
listen();

// For tests and the curious: what was drawn and how long it took.
window.penstock = { data, view, stats, theme, selected, panels, redraw, zoom, pan, fit, moveTo, choose, search, at, xOf, rowTop };
