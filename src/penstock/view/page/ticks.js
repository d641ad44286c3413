// Numbers for people: seconds, bytes, and the round steps of an axis.

function three(value) {
  return String(Number(value.toPrecision(3)));
}

function timeText(seconds, unit) {
  if (unit !== "s") return `${Number(seconds.toPrecision(4))} ${unit}`.trim();
  const size = Math.abs(seconds);
  if (size >= 60) return `${Math.floor(seconds / 60)} min ${(seconds % 60).toFixed(1)} s`;
  if (size >= 1) return `${Number(seconds.toPrecision(4))} s`;
  if (size >= 1e-3) return `${Number((seconds * 1e3).toPrecision(4))} ms`;
  return `${Number((seconds * 1e6).toPrecision(4))} µs`;
}

function memoryText(bytes, unit) {
  if (unit !== "s") return three(bytes);
  let step = 0;
  while (Math.abs(bytes) >= 999.5 && step < 5) {
    bytes /= 1024;
    step++;
  }
  return `${three(bytes)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][step]}`;
}

// Step of 1, 2 or 5 times a power of ten that gives some `about` ticks over `span`.
function tickStep(span, about) {
  const rough = span / Math.max(1, about);
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((factor) => factor * power >= 0.75 * rough) ?? 10);
}

// How to write the ticks of an axis: the prefix suits the largest, the digits the step.
function tickFormat(step, largest, unit) {
  let scale = 1;
  if (unit === "s" && largest < 1) [scale, unit] = largest < 1e-3 ? [1e6, "µs"] : [1e3, "ms"];
  const digits = Math.max(0, Math.min(12, -Math.floor(Math.log10(step * scale) + 1e-9)));
  return (value) => `${(value * scale).toFixed(digits)} ${unit}`.trim();
}
