// Draws one rank's bars and one rank's memory. Where ops are narrower than a few pixels, a whole pixel column is drawn as
// one sliver in the colour of the kind that holds most of it, and equal neighbours become one rectangle: never more
// rectangles than pixels, however many ops. The buffers below are reused by every frame.

const WIDE = 3; // device pixels from which an op is drawn on its own
const stats = { rects: 0, labels: 0, frames: 0, ms: 0 };

const held = new Float64Array(16); // share of the current column that each kind holds
let column = -1;
let runStart = 0;
let runEnd = 0;
let runColour = "";

function rect(g, colour, x, y, w, h) {
  if (g.fillStyle !== colour) g.fillStyle = colour;
  g.fillRect(x, y, w, h);
  stats.rects++;
}

function drawLane(g, t, rank, box, shown, strength) {
  const { left, width, y, height, gap } = box;
  const scale = width / (view.to - view.from);
  const bars = theme.bars[strength];
  const to = t.laneFirst[rank + 1];
  column = -1;
  runColour = "";
  for (let i = after(t.laneEnd, t.laneFirst[rank], to, view.from); i < to && t.laneStart[i] < view.to; i++) {
    const kind = t.laneKind[i];
    if (!shown[kind]) continue;
    const a = (t.laneStart[i] - view.from) * scale;
    const b = (t.laneEnd[i] - view.from) * scale;
    if (b - a < WIDE) {
      share(g, box, Math.max(a, 0), Math.min(b, width), kind, strength);
      continue;
    }
    flushColumn(g, box, strength);
    flushRun(g, box);
    const x0 = Math.round(Math.max(a, -2));
    const x1 = Math.round(Math.min(b, width + 2)) - (b - a > 6 ? gap : 0);
    rect(g, bars[kind][t.laneChunk[i]], left + x0, y, x1 - x0, height);
    if (box.font && x1 - x0 > box.digit * 1.6) label(g, t, t.lane[i], box, Math.max(x0, 0), Math.min(x1, width));
  }
  flushColumn(g, box, strength);
  flushRun(g, box);
}

// Add an op narrower than WIDE to the columns it touches.
function share(g, box, a, b, kind, strength) {
  for (let x = Math.floor(a); x < b || x === Math.floor(a); x++) {
    if (x !== column) {
      flushColumn(g, box, strength);
      column = x;
    }
    held[kind] += Math.max(0, Math.min(b, x + 1) - Math.max(a, x));
  }
}

function flushColumn(g, box, strength) {
  if (column < 0) return;
  let most = 0;
  let total = 0;
  for (let kind = 0; kind < held.length; kind++) {
    total += held[kind];
    if (held[kind] > held[most]) most = kind;
  }
  held.fill(0);
  const colour = theme.merged[strength][most][Math.max(1, Math.round(Math.min(1, total) * LEVELS))];
  if (colour !== runColour || column > runEnd) {
    flushRun(g, box);
    runColour = colour;
    runStart = column;
  }
  runEnd = column + 1;
  column = -1;
}

function flushRun(g, { left, y, height }) {
  if (runColour) rect(g, runColour, left + runStart, y, runEnd - runStart, height);
  runColour = "";
}

const texts = []; // of micro-batch numbers, made once

function label(g, t, op, box, x0, x1) {
  const micro = t.micro[op];
  const room = x1 - x0;
  let text = micro < 0 ? t.kinds[t.kind[op]].name : (texts[micro] ??= String(micro));
  if (room > box.digit * 7) text = name(t, op);
  if (room < box.digit * (text.length + 0.6)) return;
  g.fillStyle = "#10151c";
  g.fillText(text, box.left + (x0 + x1) / 2, box.y + box.height / 2 + box.digit * 0.1);
  stats.labels++;
}

const tallest = new Float32Array(16384); // highest activations + buffers of each column, and the activations then
const beneath = new Float32Array(16384);

function drawMemory(g, t, rank, box, mostBytes) {
  const { left, width, y, height } = box;
  const from = t.memoryFirst[rank];
  const to = t.memoryFirst[rank + 1];
  if (from === to) return;
  const scale = width / (view.to - view.from);
  tallest.fill(0, 0, width);
  beneath.fill(0, 0, width);
  for (let i = Math.max(from, after(t.memoryTime, from, to, view.from) - 1); i < to && t.memoryTime[i] < view.to; i++) {
    const total = t.activations[i] + t.buffers[i];
    const x0 = Math.max(0, Math.floor((t.memoryTime[i] - view.from) * scale));
    const until = i + 1 < to ? t.memoryTime[i + 1] : t.step;
    const x1 = Math.min(width, Math.ceil((until - view.from) * scale));
    for (let x = x0; x < x1; x++) {
      if (total > tallest[x]) {
        tallest[x] = total;
        beneath[x] = t.activations[i];
      }
    }
  }
  steps(g, theme.buffers, tallest, beneath, box, height / mostBytes);
  steps(g, theme.activations, beneath, null, box, height / mostBytes);
}

// Fill between two step curves, equal columns as one rectangle; a floor of null is zero.
function steps(g, colour, top, floor, { left, width, y, height }, scale) {
  const base = y + height;
  for (let x = 0; x < width; ) {
    const high = Math.round(top[x] * scale);
    const low = floor ? Math.round(floor[x] * scale) : 0;
    let next = x + 1;
    while (next < width && Math.round(top[next] * scale) === high && (!floor || Math.round(floor[next] * scale) === low)) next++;
    if (high > low || (floor && top[x] > floor[x])) rect(g, colour, left + x, base - Math.max(high, low + 1), next - x, Math.max(high - low, 1));
    x = next;
  }
}
