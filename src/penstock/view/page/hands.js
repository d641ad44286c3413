// Wheel, pointers and keys.

const CLICK = 5; // CSS pixels a pointer may move and still click

function onWheel(panel, event) {
  const x = event.offsetX * panel.ratio - panel.left;
  if (x < 0) return;
  const sideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  const by = (sideways && !event.deltaX ? event.deltaY : sideways ? event.deltaX : event.deltaY) * (event.deltaMode ? 16 : 1);
  const whole = view.to - view.from >= view.whole;
  if (whole && (sideways || by > 0)) return; // nothing further out: the page scrolls
  event.preventDefault();
  if (sideways) pan(by / (panel.width / panel.ratio));
  else zoom(Math.exp(-by * (event.ctrlKey ? 0.01 : 0.0016)), view.from + (x / panel.width) * (view.to - view.from));
}

// Drag to pan, two fingers to pinch, a still press to click.
function holdPointers(panel, { hovered, left, clicked }) {
  const { stage } = panel;
  const down = new Map();
  const time = (x) => view.from + ((x * panel.ratio - panel.left) / panel.width) * (view.to - view.from);
  const place = (event) => {
    const frame = stage.getBoundingClientRect();
    return { x: event.clientX - frame.left, y: event.clientY - frame.top };
  };
  let moved = 0;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    down.set(event.pointerId, place(event));
    moved = down.size > 1 ? Infinity : 0;
  });
  stage.addEventListener("pointermove", (event) => {
    const was = down.get(event.pointerId);
    const now = place(event);
    if (!was) return hovered(now, event);
    moved += Math.hypot(now.x - was.x, now.y - was.y);
    if (moved <= CLICK) return;
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("dragging");
    left();
    down.set(event.pointerId, now);
    const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
    if (!other) return pan((was.x - now.x) / (panel.width / panel.ratio));
    const [before, after] = [Math.abs(was.x - other.x), Math.abs(now.x - other.x)];
    if (before > 10 && after > 10) zoom(after / before, time((now.x + other.x) / 2));
  });
  const up = (event) => {
    if (down.delete(event.pointerId) && event.type === "pointerup" && moved <= CLICK) clicked(place(event), event);
    if (!down.size) stage.classList.remove("dragging");
  };
  stage.addEventListener("pointerup", up);
  stage.addEventListener("pointercancel", up);
  stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && left());
  stage.addEventListener("dblclick", fit);
  stage.addEventListener("wheel", (event) => onWheel(panel, event), { passive: false });
}

const KEYS = {
  ArrowLeft: () => pan(-0.15),
  ArrowRight: () => pan(0.15),
  "+": () => zoom(1.5),
  "=": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  0: fit,
};

// Calls `walk(dx, dy)` for Shift + arrows and `let go` for Escape; the rest moves the view.
function holdKeys(walk, letGo) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey && steps[event.key];
    const act = step ? () => walk(...step) : event.key === "Escape" ? letGo : event.shiftKey && event.key !== "+" ? null : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
}
