// What stands under the pointer, in words.

const tip = document.getElementById("tip");

// Rank, time and op (-1: idle) at a point of a panel, given in CSS pixels of its canvas; null outside the lanes.
function at(panel, x, y) {
  const { t, ratio } = panel;
  const rank = Math.floor((y * ratio - panel.top) / panel.pitch);
  const across = (x * ratio - panel.left) / panel.width;
  if (rank < 0 || rank >= t.ranks || across < 0 || across > 1) return null;
  const time = view.from + across * (view.to - view.from);
  const near = ((2 * ratio) / panel.width) * (view.to - view.from);
  const [from, to] = [t.laneFirst[rank], t.laneFirst[rank + 1]];
  let place = after(t.laneEnd, from, to, time);
  if (place > from && (place === to || t.laneStart[place] > time) && time - t.laneEnd[place - 1] < near) place--;
  const hit = place < to && t.laneStart[place] <= time + near;
  return { rank, time, op: hit ? t.lane[place] : -1, next: place < to ? t.lane[place] : -1 };
}

const whose = (t, op) => `${name(t, op)} on rank ${t.rank[op]}`;

// Why the op began no sooner.
function reason(t, op, unit) {
  const awaited = maker(t, cause(t, op));
  const last = before(t, op);
  const seconds = waitedSeconds(t, op);
  const idled = seconds > 1e-9 * view.whole;
  if (awaited >= 0 && t.rank[awaited] !== t.rank[op]) return `${timeText(seconds, unit)} for ${whose(t, awaited)}`;
  if (last < 0) return idled ? `${timeText(seconds, unit)}, for what was not recorded` : "nothing: first op of its rank";
  if (!idled) return `nothing: its rank was busy with ${barName(t, last)}`;
  return `${timeText(seconds, unit)}, for what was not recorded`;
}

function memoryAt(t, rank, time, unit) {
  const place = after(t.memoryTime, t.memoryFirst[rank], t.memoryFirst[rank + 1], time) - 1;
  if (place < t.memoryFirst[rank]) return memoryText(0, unit);
  const parts = [[t.buffers[place], "buffers"], [t.gathered[place], "gathered weights"]].filter(([bytes]) => bytes);
  const words = parts.map(([bytes, word]) => `${memoryText(bytes, unit)} of it ${word}`).join(", ");
  return memoryText(t.total[place], unit) + (words && ` (${words})`);
}

function whatIs(t, op) {
  const micro = t.micro[op] < 0 ? "" : `, micro-batch ${t.micro[op]}`;
  return `${t.kinds[t.kind[op]].phrase} of stage ${t.stage[op]}${micro}`;
}

// Facts about a bar: pairs of name and value.
function describe(t, op, time, unit, timelines) {
  const facts = [
    ["what", whatIs(t, op)],
    ...(t.fused[op] ? [["with", whatIs(t, op + 1)]] : []),
    ["rank", String(t.rank[op])],
    ["start", timeText(t.start[op], unit)],
    ["duration", timeText(barEnd(t, op) - t.start[op], unit)],
    ["waited", reason(t, op, unit)],
    ["memory", memoryAt(t, t.rank[op], time, unit)],
  ];
  for (const other of timelines) {
    const twin = other === t ? -1 : find(other, t.kind[op], t.stage[op], t.micro[op]);
    if (twin >= 0) facts.push([other.label, `from ${timeText(other.start[twin], unit)}, ${timeText(other.duration[twin], unit)} long`]);
  }
  return facts;
}

function describeIdle(t, { rank, time, next }, unit) {
  const facts = [["time", timeText(time, unit)]];
  if (next >= 0) facts.push(["until", `${barName(t, next)}, at ${timeText(t.start[next], unit)}`], ["waited", reason(t, next, unit)]);
  return [...facts, ["memory", memoryAt(t, rank, time, unit)]];
}

function showTip(title, facts, x, y) {
  const list = element("div");
  for (const [word, value] of facts) list.append(element("dt", { textContent: word }), element("dd", { textContent: value }));
  tip.replaceChildren(element("p", {}, element("b", { textContent: title })), list);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = x + 16 + width < innerWidth - 8 ? x + 16 : Math.max(8, Math.min(x - 16 - width, innerWidth - width - 8));
  const down = y + 18 + height < innerHeight - 8 ? y + 18 : Math.max(8, y - 12 - height);
  tip.style.transform = `translate(${right}px, ${down}px)`;
}

function hideTip() {
  tip.hidden = true;
}

// A hairline at one time on every panel.
function showHair(panels, time) {
  for (const panel of panels) {
    panel.hair.hidden = false;
    panel.hair.style.transform = `translateX(${xOf(panel, time) / panel.ratio}px)`;
  }
}

function hideHair(panels) {
  for (const { hair } of panels) hair.hidden = true;
}
