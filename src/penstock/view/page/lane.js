// Paints one rank's bars, and one rank's memory, into the pixels of a panel. Ops too narrow for a bar of their own share
// pixel columns: each such column shows, stacked, how much of its time each kind takes, and idle time as the gap on top.
// So a frame paints fewer than two spans per pixel column and lane, however many ops there are, and allocates nothing.

const NARROW = 1.5; // device pixels below which an op has no bar of its own
const WIDE = 6; // device pixels from which a bar stands apart; below, bars that touch share the columns of their ends
const MOST_COLUMNS = 16384;
const stats = { spans: 0, labels: 0, frames: 0, ms: 0 };

const kindsHeld = new Float64Array(32 * MOST_COLUMNS); // share of each column that each kind takes, for shared columns
const shared = new Int32Array(MOST_COLUMNS); // the shared columns of the lane being painted
const line = new Uint32Array(MOST_COLUMNS); // one row of pixels of the upper half, and of the lower
const below = new Uint32Array(MOST_COLUMNS);

// `box`: the lane's y, height, gap between bars and the panel's width. `wide(op, from, to)` is told of each bar.
function paintLane(pixels, t, rank, box, shown, strength, wide) {
  const { width, y, height, gap } = box;
  const scale = width / (view.to - view.from);
  const bars = theme.bars[strength];
  const stacked = theme.stacked[strength];
  const from = t.laneFirst[rank];
  const to = t.laneFirst[rank + 1];
  line.set(pixels.subarray(y * width, y * width + width));
  const idle = [Math.round(-view.from * scale), Math.round((t.step - view.from) * scale)];
  line.fill(theme.pixel.idle, Math.max(0, idle[0]), Math.max(0, Math.min(width, idle[1])));
  below.set(line.subarray(0, width));
  let columns = 0;
  for (let i = after(t.laneEnd, from, to, view.from); i < to && t.laneStart[i] < view.to; i++) {
    const kind = t.laneKind[i];
    if (!shown[kind]) continue;
    const a = (t.laneStart[i] - view.from) * scale;
    const b = (t.laneEnd[i] - view.from) * scale;
    const other = t.fused[t.lane[i]] ? t.lane[i] + 1 : -1; // of a block, the backward: in the lower half of the bar
    if (b - a < NARROW) {
      const middle = other < 0 ? b : (a + b) / 2;
      columns = takeColumns(Math.max(a, 0), Math.min(middle, width), kind, columns);
      if (other >= 0) columns = takeColumns(Math.max(middle, 0), Math.min(b, width), t.kind[other], columns);
      continue;
    }
    const alone = b - a >= WIDE;
    const joinsLast = !alone && i > from && a - (t.laneEnd[i - 1] - view.from) * scale < 1;
    const joinsNext = !alone && i + 1 < to && (t.laneStart[i + 1] - view.from) * scale - b < 1;
    const x0 = Math.max(0, joinsLast ? Math.ceil(a) : Math.round(a));
    const x1 = Math.max(x0, Math.min(width, joinsNext ? Math.floor(b) : Math.round(b) - (alone ? gap : 0)));
    if (joinsLast && a > 0) columns = takeColumns(a, Math.min(x0, width), kind, columns);
    if (joinsNext && b < width) columns = takeColumns(x1, b, kind, columns);
    const colour = alone ? bars[kind][t.laneChunk[i]] : stacked[kind];
    line.fill(colour, x0, x1);
    below.fill(other < 0 ? colour : alone ? bars[t.kind[other]][t.chunk[t.stage[other]]] : stacked[t.kind[other]], x0, x1);
    stats.spans++;
    wide(t.lane[i], Math.max(a, 0), Math.min(b, width) - gap);
  }
  const half = y + Math.ceil(height / 2);
  for (let row = y; row < y + height; row++) pixels.set((row < half ? line : below).subarray(0, width), row * width);
  stackColumns(pixels, box, columns, stacked);
}

// Add the stretch of an op to the columns it touches; returns how many columns are shared so far.
function takeColumns(a, b, kind, columns) {
  for (let x = Math.floor(a); x < b; x++) {
    if (columns === 0 || shared[columns - 1] !== x) {
      shared[columns++] = x;
      kindsHeld.fill(0, x * 32, x * 32 + 32);
    }
    kindsHeld[x * 32 + kind] += Math.min(b, x + 1) - Math.max(a, x);
  }
  return columns;
}

function stackColumns(pixels, { width, y, height }, columns, colours) {
  for (let i = 0; i < columns; i++) {
    const x = shared[i];
    let level = 0;
    let row = y + height - 1;
    for (let kind = 0; kind < colours.length; kind++) {
      level += kindsHeld[x * 32 + kind];
      for (const top = y + height - Math.round(Math.min(1, level) * height); row >= top; row--) {
        pixels[row * width + x] = colours[kind];
      }
    }
    stats.spans++;
  }
}

const highest = new Int32Array(MOST_COLUMNS); // where memory is highest in each column, -1 for nowhere

function paintMemory(pixels, t, rank, { width, y, height }, mostBytes) {
  const from = t.memoryFirst[rank];
  const to = t.memoryFirst[rank + 1];
  if (from === to) return;
  const scale = width / (view.to - view.from);
  highest.fill(-1, 0, width);
  for (let i = Math.max(from, after(t.memoryTime, from, to, view.from) - 1); i < to && t.memoryTime[i] < view.to; i++) {
    const until = i + 1 < to ? t.memoryTime[i + 1] : t.step;
    const x1 = Math.min(width, Math.ceil((until - view.from) * scale));
    for (let x = Math.max(0, Math.floor((t.memoryTime[i] - view.from) * scale)); x < x1; x++) {
      if (highest[x] < 0 || t.total[i] > t.total[highest[x]]) highest[x] = i;
    }
  }
  const { activations, buffers, gathered } = theme.pixel;
  for (let x = 0; x < width; x++) {
    const i = highest[x];
    if (i < 0) continue;
    const low = Math.round((t.activations[i] / mostBytes) * height);
    const middle = Math.round(((t.activations[i] + t.buffers[i]) / mostBytes) * height);
    const high = Math.round((t.total[i] / mostBytes) * height);
    for (let up = 0; up < high; up++) {
      pixels[(y + height - 1 - up) * width + x] = up < low ? activations : up < middle ? buffers : gathered;
    }
  }
}

// The longest name of an op that fits between x0 and x1: all of it, else the micro-batch. Fit is judged by the longest
// such name of the timeline, so that equal bars have equal names.
function labelOf(t, op, pixels, digit) {
  if (t.fused[op]) return blockLabel(t, op, pixels, digit);
  const letters = t.longest + t.kinds[t.kind[op]].name.length;
  if (pixels > digit * (letters + 0.5)) return name(t, op);
  if (t.micro[op] < 0 || pixels < digit * (t.digits + 0.3)) return "";
  return (micros[t.micro[op]] ??= String(t.micro[op]));
}

function blockLabel(t, op, pixels, digit) {
  const short = (one) => `${t.kinds[t.kind[one]].name}${t.micro[one]}`;
  if (pixels > digit * (2 * t.longest + 4)) return barName(t, op);
  return pixels > digit * (2 * t.digits + 4) ? `${short(op)}+${short(op + 1)}` : "";
}

const micros = []; // texts of micro-batch numbers, made once
