// The packed data of the page: typed arrays over one inflated block, and lanes ready to search.

const TYPES = { Float64Array, Int32Array, Uint8Array };

async function inflate(text) {
  const coded = atob(text);
  const bytes = new Uint8Array(coded.length);
  for (let i = 0; i < coded.length; i++) bytes[i] = coded.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function unpack({ arrays, ...words }, buffer) {
  for (const [name, { type, at, length }] of Object.entries(arrays)) words[name] = new TYPES[type](buffer, at, length);
  return words;
}

async function load() {
  const header = JSON.parse(document.getElementById("header").textContent);
  const buffer = await inflate(document.getElementById("data").textContent.trim());
  const timelines = header.timelines.map((packed) => withLanes(unpack(packed, buffer), header.kinds));
  return { ...header, timelines, curves: header.curves.map((packed) => unpack(packed, buffer)) };
}

// Adds to a timeline: rank of each op; per rank the bars in order of start (`lane`, bounded by `laneFirst`, with their
// times side by side for the drawing loop): ops that hold it, of a block of two the first; the place of each op in it;
// the sum of all memory; each rank's peak; ends of messages.
function withLanes(t, kinds) {
  const ops = t.kind.length;
  t.rank = new Int32Array(ops);
  t.place = new Int32Array(ops).fill(-1);
  t.laneFirst = new Int32Array(t.ranks + 1);
  const lane = [];
  for (let r = 0; r < t.ranks; r++) {
    const mine = [];
    for (let op = t.first[r]; op < t.first[r + 1]; op++) {
      t.rank[op] = r;
      if (t.holds[op] && !isSecond(t, op)) mine.push(op);
    }
    mine.sort((a, b) => t.start[a] - t.start[b] || a - b);
    for (const op of mine) {
      t.place[op] = lane.length;
      if (t.fused[op]) t.place[op + 1] = lane.length;
      lane.push(op);
    }
    t.laneFirst[r + 1] = lane.length;
  }
  t.lane = Int32Array.from(lane);
  t.laneStart = Float64Array.from(lane, (op) => t.start[op]);
  t.laneEnd = Float64Array.from(lane, (op) => barEnd(t, op));
  t.laneKind = Uint8Array.from(lane, (op) => t.kind[op]);
  t.laneChunk = Uint8Array.from(lane, (op) => t.chunk[t.stage[op]]);
  t.total = t.activations.map((bytes, i) => bytes + t.buffers[i] + t.gathered[i]);
  t.chunks = 1 + t.chunk.reduce((a, b) => Math.max(a, b), 0);
  t.digits = String(t.micros - 1).length; // of the longest micro-batch number
  t.longest = String(t.chunk.length - 1).length + t.digits; // digits of the longest op name
  t.longestFlight = t.arrival.reduce((most, end, i) => Math.max(most, end - t.departure[i]), 0);
  t.other = new Int32Array(ops).fill(-1);
  t.send.forEach((send, i) => {
    t.other[send] = t.receive[i];
    t.other[t.receive[i]] = send;
  });
  t.kinds = kinds;
  t.peaks = peaks(t);
  return t;
}

// Place in the memory arrays of the highest sum on each rank, -1 where a rank has no curve.
function peaks(t) {
  return Int32Array.from({ length: t.ranks }, (_, r) => {
    let best = -1;
    let most = -Infinity;
    for (let i = t.memoryFirst[r]; i < t.memoryFirst[r + 1]; i++) {
      if (t.total[i] > most) most = t.total[(best = i)];
    }
    return best;
  });
}

// First index in [from, to) whose value is greater than `limit`; `to` if there is none.
function after(values, from, to, limit) {
  while (from < to) {
    const middle = (from + to) >> 1;
    if (values[middle] > limit) to = middle;
    else from = middle + 1;
  }
  return from;
}

const end = (t, op) => t.start[op] + t.duration[op];
const isSecond = (t, op) => op > 0 && t.fused[op - 1] === 1;
const barOf = (t, op) => (isSecond(t, op) ? op - 1 : op); // the op whose bar shows an op
const barEnd = (t, op) => (t.fused[op] ? Math.max(end(t, op), end(t, op + 1)) : end(t, op));
const barName = (t, op) => (t.fused[op] ? `${name(t, op)}+${name(t, op + 1)}` : name(t, op));

function name(t, op) {
  return `${t.stage[op]}${t.kinds[t.kind[op]].name}${t.micro[op] < 0 ? "" : t.micro[op]}`;
}

// The op of a timeline with the given kind, stage and micro-batch, -1 if there is none.
function find(t, kind, stage, micro) {
  if (!t.ids) {
    t.ids = new Map();
    for (let op = t.kind.length - 1; op >= 0; op--) t.ids.set(key(t.kind[op], t.stage[op], t.micro[op]), op);
  }
  return t.ids.get(key(kind, stage, micro)) ?? -1;
}

const key = (kind, stage, micro) => (stage * 0x1000000 + micro + 1) * 32 + kind;
