// Why an op began when it did, and the chain of such causes back to the start of the step.

const selected = { timeline: null, op: -1, path: [] };

const isMessage = (t, op) => t.kinds[t.kind[op]].message;
const receives = (t, op) => isMessage(t, op) && t.kinds[t.kind[op]].name.startsWith("RECV");

// The op before on the same rank that kept it busy, -1 if none.
function before(t, op) {
  if (t.place[op] >= 0) return t.place[op] > t.laneFirst[t.rank[op]] ? t.lane[t.place[op] - 1] : -1;
  const from = t.laneFirst[t.rank[op]];
  const place = after(t.laneEnd, from, t.laneFirst[t.rank[op] + 1], t.start[op] * (1 + 1e-12) + 1e-15);
  return place > from ? t.lane[place - 1] : -1;
}

// What an op had to wait for last: the op whose result came last, the sender of a message, else its busy rank.
function cause(t, op) {
  if (receives(t, op) && t.other[op] >= 0 && t.start[t.other[op]] >= t.start[op]) return t.other[op];
  return t.waitedFor[op] >= 0 ? t.waitedFor[op] : before(t, op);
}

// How long the op's rank idled before it (a message: how long it lay posted).
function waitedSeconds(t, op) {
  const last = before(t, op);
  return Math.max(0, t.start[op] - (last < 0 ? 0 : barEnd(t, last)));
}

// The op that made the value: steps over the sends and receives that brought it.
function maker(t, op) {
  for (let hops = 0; op >= 0 && isMessage(t, op) && hops < 3; hops++) {
    op = receives(t, op) ? t.other[op] : madeFor(t, op);
  }
  return op;
}

function madeFor(t, send) {
  const forward = t.kinds[t.kind[send]].name.endsWith("_F");
  for (const kind of forward ? ["F"] : ["B", "I"]) {
    const op = find(t, t.kinds.findIndex(({ name }) => name === kind), t.stage[send], t.micro[send]);
    if (op >= 0) return op;
  }
  return -1;
}

// Select an op (-1: none): its micro-batch (of a block both) stands out on every timeline, its chain of causes on its own.
function select(timelines, timeline, op) {
  selected.timeline = op < 0 ? null : timeline;
  selected.op = op;
  selected.path = [];
  for (const t of timelines) {
    t.family = [];
    const mine = op < 0 ? [] : [timeline.micro[op], timeline.fused[op] ? timeline.micro[op + 1] : timeline.micro[op]];
    if (op >= 0) t.micro.forEach((micro, id) => mine.includes(micro) && t.holds[id] && t.family.push(id));
  }
  const seen = new Set();
  for (let at = op; at >= 0 && !seen.has(at); at = cause(timeline, at)) {
    seen.add(at);
    selected.path.push(at);
  }
  redrawSoon();
}
