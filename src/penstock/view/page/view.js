// The stretch of time in sight, one for all panels, so that predicted and measured stay on one scale.

const view = { from: 0, to: 1, least: 1e-9, whole: 1 };

function fit() {
  moveTo(0, view.whole);
}

function moveTo(from, to) {
  const span = Math.min(Math.max(to - from, view.least), view.whole);
  const middle = (from + to) / 2;
  view.from = Math.min(Math.max(middle - span / 2, 0), view.whole - span);
  view.to = view.from + span;
  redrawSoon();
}

// Zoom by `factor` (above one: closer) around `time`.
function zoom(factor, time = (view.from + view.to) / 2) {
  const span = Math.min(Math.max((view.to - view.from) / factor, view.least), view.whole);
  const share = (time - view.from) / (view.to - view.from);
  const from = Math.min(Math.max(time - share * span, 0), view.whole - span);
  moveTo(from, from + span);
}

function pan(share) {
  const by = share * (view.to - view.from);
  moveTo(view.from + by, view.to + by);
}

// Bring an op into sight, closer if it is too narrow to see.
function reveal(from, to) {
  const span = view.to - view.from;
  const narrow = (to - from) / span < 0.02;
  if (from >= view.from && to <= view.to && !narrow) return redrawSoon();
  const wide = narrow ? Math.max((to - from) * 25, view.least) : span;
  const middle = (from + to) / 2;
  moveTo(middle - wide / 2, middle + wide / 2);
}

let redraw = () => {};
let waiting = false;

function redrawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    redraw();
  });
}
