// One panel per timeline: a canvas with the time axis, a lane and a memory strip per rank, messages and the selection.
// All lengths inside the canvas are device pixels; `ratio` of them make one CSS pixel.

const AXIS = 26;
const MOST_PIXELS = 16e6; // what phones still allow a canvas
const ROOM_PER_MESSAGE = 14; // CSS pixels between neighbours from which messages are drawn
const rows = { density: 1 };

function element(tag, words = {}, ...children) {
  const made = Object.assign(document.createElement(tag), words);
  made.append(...children);
  return made;
}

function makePanel(t, unit) {
  const canvas = element("canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Timeline ${t.label}: ${t.facts.filter(Boolean).join(", ")}`);
  const hair = element("div", { className: "hair", hidden: true });
  const stage = element("div", { className: "stage" }, canvas, hair);
  const words = t.facts.filter(Boolean).map((text) => element("span", { textContent: text }));
  const head = element("header", {}, element("h2", { textContent: t.label }), ...words);
  const section = element("section", { className: "panel" }, head, stage);
  return { t, unit, section, stage, canvas, hair, g: canvas.getContext("2d", { alpha: false }) };
}

// Sizes of the canvas and of its rows; to be called when the page's width or the rows' height changes.
function layOut(panel) {
  const { canvas, stage, t } = panel;
  const wide = stage.clientWidth;
  const pitch = Math.max(5, Math.max(Math.min(88, 416 / t.ranks), Math.min(52, 880 / t.ranks)) * rows.density);
  const tall = Math.ceil(AXIS + pitch * t.ranks + 2);
  const ratio = Math.min(window.devicePixelRatio || 1, Math.sqrt(MOST_PIXELS / (wide * tall)), 16384 / tall, MOST_COLUMNS / wide);
  panel.ratio = ratio;
  panel.pitch = pitch * ratio;
  panel.top = AXIS * ratio;
  panel.left = Math.round(theme.gutter * ratio);
  panel.width = Math.floor(wide * ratio) - panel.left - Math.ceil(2 * ratio);
  panel.lane = Math.round(panel.pitch * (pitch < 9 ? 0.8 : pitch < 20 ? 0.56 : 0.52));
  panel.memory = pitch < 9 ? 0 : Math.round(panel.pitch * (pitch < 20 ? 0.3 : 0.34));
  canvas.width = Math.floor(wide * ratio);
  canvas.height = Math.round(tall * ratio);
  canvas.style.height = `${tall}px`;
  panel.image = new ImageData(panel.width, canvas.height);
  panel.pixels = new Uint32Array(panel.image.data.buffer);
}

const rowTop = (panel, rank) => Math.round(panel.top + rank * panel.pitch);
const xOf = (panel, time) => panel.left + ((time - view.from) / (view.to - view.from)) * panel.width;

function drawPanel(panel, shown, mostBytes) {
  const { g, t, canvas } = panel;
  g.fillStyle = theme.paper;
  g.fillRect(0, 0, canvas.width, canvas.height);
  setFont(panel);
  paintRows(panel, shown, mostBytes);
  g.save();
  g.beginPath();
  g.rect(panel.left, 0, panel.width, canvas.height);
  g.clip();
  writeLabels(panel);
  if (panel.memory >= 8 * panel.ratio) for (let rank = 0; rank < t.ranks; rank++) markPeak(panel, rank, mostBytes);
  drawAxis(panel);
  if (shown[t.kinds.findIndex(({ message }) => message)]) drawMessages(panel);
  if (selected.timeline) drawSelection(panel, shown);
  g.restore();
  drawGutter(panel);
}

const box = { width: 0, y: 0, height: 0, gap: 0 }; // the lane or strip being painted
const font = { name: "", digit: 0 }; // of labels on bars; no name where they would be too small to read
const labels = { count: 0, op: new Int32Array(MOST_COLUMNS * 4), x: new Float64Array(MOST_COLUMNS * 4), room: new Float64Array(MOST_COLUMNS * 4) };

function setFont(panel) {
  const size = Math.min(11.5 * panel.ratio, panel.lane * 0.66);
  font.name = size >= 7 * panel.ratio ? `${size}px ${theme.font}` : "";
  panel.g.font = font.name || `10px ${theme.font}`;
  font.digit = panel.g.measureText("0").width;
}

function paintRows(panel, shown, mostBytes) {
  const { t, pixels } = panel;
  pixels.fill(theme.pixel.paper);
  paintGrid(panel);
  box.width = panel.width;
  box.gap = Math.max(1, Math.round(panel.ratio));
  labels.count = 0;
  for (let rank = 0; rank < t.ranks; rank++) {
    box.y = rowTop(panel, rank);
    box.height = panel.lane;
    paintLane(pixels, t, rank, box, shown, selected.timeline ? 0 : 1, noteLabel);
    box.y += panel.lane + Math.round(panel.ratio);
    box.height = panel.memory;
    paintMemory(pixels, t, rank, box, mostBytes);
  }
  panel.g.putImageData(panel.image, panel.left, 0);
}

function noteLabel(op, x0, x1) {
  if (!font.name || x1 - x0 < font.digit || labels.count === labels.op.length) return;
  labels.op[labels.count] = op;
  labels.x[labels.count] = (x0 + x1) / 2;
  labels.room[labels.count++] = x1 - x0;
}

function writeLabels(panel) {
  const { g, t, left, lane } = panel;
  g.font = font.name;
  g.textAlign = "center";
  g.textBaseline = "middle";
  g.fillStyle = selected.timeline ? theme.muted : "#10151c";
  for (let i = 0; i < labels.count; i++) {
    const text = labelOf(t, labels.op[i], labels.room[i], font.digit);
    if (text) g.fillText(text, left + labels.x[i], rowTop(panel, t.rank[labels.op[i]]) + lane / 2 + font.digit * 0.1);
    stats.labels += text ? 1 : 0;
  }
}

function markPeak(panel, rank, mostBytes) {
  const { g, t, ratio } = panel;
  const at = t.peaks[rank];
  if (at < 0) return;
  const high = (t.total[at] / mostBytes) * panel.memory;
  g.fillStyle = theme.ink;
  g.beginPath();
  g.arc(xOf(panel, t.memoryTime[at]), rowTop(panel, rank) + panel.lane + ratio + panel.memory - high, 2.2 * ratio, 0, 2 * Math.PI);
  g.fill();
}

const tickOf = (panel) => tickStep(view.to - view.from, panel.width / (110 * panel.ratio));

function paintGrid(panel) {
  const { pixels, width, canvas, ratio } = panel;
  const step = tickOf(panel);
  for (let n = Math.ceil(view.from / step - 1e-9); n * step <= view.to; n++) {
    const x = Math.round(xOf(panel, n * step)) - panel.left;
    if (x < width) for (let y = Math.round(AXIS * ratio * 0.2); y < canvas.height; y++) pixels[y * width + x] = theme.pixel.line;
  }
}

function drawAxis(panel) {
  const { g, t, ratio, canvas } = panel;
  const step = tickOf(panel);
  const write = tickFormat(step, view.to, panel.unit);
  g.font = `${11 * ratio}px ${theme.font}`;
  g.textBaseline = "middle";
  g.textAlign = "left";
  g.fillStyle = theme.muted;
  for (let n = Math.ceil(view.from / step - 1e-9); n * step <= view.to; n++) {
    const [text, x] = [write(n * step), xOf(panel, n * step) + 4 * ratio];
    if (x + g.measureText(text).width < panel.left + panel.width) g.fillText(text, x, AXIS * ratio * 0.42);
  }
  const thin = Math.max(1, Math.round(ratio));
  g.fillRect(Math.round(xOf(panel, t.step)) - thin, AXIS * ratio * 0.2, thin, canvas.height);
}

// Rank and, where there is room, its peak memory; as many as can be read.
function drawGutter(panel) {
  const { g, t, ratio } = panel;
  const every = Math.ceil((11 * ratio) / panel.pitch);
  const roomy = panel.pitch >= 26 * ratio;
  const size = Math.min(12, (panel.pitch / ratio) * 0.86);
  const word = theme.gutter > 60 ? "rank " : "r ";
  g.textAlign = "right";
  g.textBaseline = "middle";
  for (let rank = 0; rank < t.ranks; rank += every) {
    const y = rowTop(panel, rank) + panel.lane / 2;
    g.font = `${size * ratio}px ${theme.font}`;
    g.fillStyle = theme.ink;
    g.fillText(word + rank, panel.left - 8 * ratio, y);
    if (!roomy || t.peaks[rank] < 0) continue;
    g.font = `${10 * ratio}px ${theme.font}`;
    g.fillStyle = theme.muted;
    const at = t.peaks[rank];
    g.fillText(memoryText(t.total[at], panel.unit), panel.left - 8 * ratio, y + panel.pitch * 0.44);
  }
}

// Lines from the sending lane to the receiving one, while few enough are in sight to be followed.
function drawMessages(panel) {
  const { g, t, ratio } = panel;
  const from = after(t.departure, 0, t.departure.length, view.from - t.longestFlight);
  const to = after(t.departure, from, t.departure.length, view.to);
  const links = Math.max(1, t.ranks - 1);
  if (((to - from) / links) * ROOM_PER_MESSAGE * ratio > panel.width || panel.pitch < 16 * ratio) return;
  g.strokeStyle = theme.muted;
  g.fillStyle = theme.muted;
  g.lineWidth = ratio;
  g.globalAlpha = 0.8;
  for (let i = from; i < to; i++) {
    const [source, target] = [t.rank[t.send[i]], t.rank[t.receive[i]]];
    const y0 = rowTop(panel, source) + (target > source ? panel.lane : 0);
    const y1 = rowTop(panel, target) + (target > source ? 0 : panel.lane);
    arrow(g, xOf(panel, t.departure[i]), y0, xOf(panel, t.arrival[i]), y1, 4 * ratio);
  }
  g.globalAlpha = 1;
}

function arrow(g, x0, y0, x1, y1, size) {
  const turn = Math.atan2(y1 - y0, x1 - x0);
  g.beginPath();
  g.moveTo(x0, y0);
  g.lineTo(x1, y1);
  g.stroke();
  g.beginPath();
  g.moveTo(x1, y1);
  g.lineTo(x1 - size * Math.cos(turn - 0.4), y1 - size * Math.sin(turn - 0.4));
  g.lineTo(x1 - size * Math.cos(turn + 0.4), y1 - size * Math.sin(turn + 0.4));
  g.fill();
}

// The selected op's micro-batch in full colour over the pale rest, and the route of causes that led to the op.
function drawSelection(panel, shown) {
  const { g, t, ratio } = panel;
  g.font = font.name;
  g.textAlign = "center";
  for (const op of t.family) {
    if (!shown[t.kind[op]] || end(t, op) < view.from || t.start[op] > view.to) continue;
    const x0 = Math.max(panel.left, xOf(panel, t.start[op]));
    const wide = Math.max(ratio, Math.min(xOf(panel, end(t, op)), panel.left + panel.width) - x0 - ratio);
    g.fillStyle = theme.colours[t.kind[op]][t.chunk[t.stage[op]]];
    const half = Math.ceil(panel.lane / 2); // of a block only this op's half
    const top = rowTop(panel, t.rank[op]) + (isSecond(t, op) ? half : 0);
    g.fillRect(x0, top, wide, isSecond(t, op) ? panel.lane - half : t.fused[op] ? half : panel.lane);
    const text = font.name && labelOf(t, barOf(t, op), wide, font.digit);
    g.fillStyle = "#10151c";
    if (text) g.fillText(text, x0 + wide / 2, rowTop(panel, t.rank[op]) + panel.lane / 2 + font.digit * 0.1);
  }
  if (t !== selected.timeline) return;
  drawRoute(panel);
  const op = barOf(t, selected.op);
  const wide = ((barEnd(t, op) - t.start[op]) / (view.to - view.from)) * panel.width;
  g.strokeStyle = theme.path;
  g.lineWidth = 2 * ratio;
  g.strokeRect(xOf(panel, t.start[op]), rowTop(panel, t.rank[op]), wide, panel.lane);
}

function drawRoute(panel) {
  const { g, t, ratio } = panel;
  const y = (op) => rowTop(panel, t.rank[op]) + panel.lane + 0.5 * ratio;
  g.strokeStyle = theme.path;
  g.fillStyle = theme.path;
  g.lineWidth = 1.5 * ratio;
  let hops = 0;
  for (let i = 0; i < selected.path.length; i++) {
    const op = selected.path[i];
    const last = selected.path[i + 1];
    if (t.holds[op] && end(t, op) >= view.from && t.start[op] <= view.to) {
      g.fillRect(xOf(panel, t.start[op]), y(op) - ratio, (t.duration[op] / (view.to - view.from)) * panel.width, 2 * ratio);
    }
    if (last === undefined || t.rank[last] === t.rank[op] || t.start[op] < view.from || t.start[last] > view.to) continue;
    const [from, to] = isMessage(t, op) ? [t.start[last], end(t, op)] : [end(t, last), t.start[op]];
    if (hops++ < 500) arrow(g, xOf(panel, from), y(last), xOf(panel, to), y(op) - (t.rank[op] > t.rank[last] ? panel.lane : 0), 6 * ratio);
  }
}
