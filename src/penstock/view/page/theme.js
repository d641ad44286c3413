// Colours of the canvas, read from the style sheet so that light, dark and print have one source.

const LEVELS = 4; // steps from idle to fully busy for pixel columns that hold many ops

const theme = {};

function readTheme(kinds, chunks) {
  const style = getComputedStyle(document.documentElement);
  for (const word of ["paper", "ink", "muted", "line", "idle", "accent", "activations", "buffers", "path"]) {
    theme[word] = style.getPropertyValue(`--${word}`).trim();
  }
  theme.gutter = parseFloat(style.getPropertyValue("--gutter"));
  theme.font = getComputedStyle(document.body).fontFamily;
  // bars[strength][kind][chunk]: later chunks of a rank are paler; strength 0 recedes behind a selection
  const dark = luminance(theme.paper) < 0.5;
  const shade = (colour, c) => mix(colour, dark ? "#12161c" : "#ffffff", chunks > 1 ? (0.45 * c) / (chunks - 1) : 0);
  const strength = (share) =>
    kinds.map(({ colour }) => Array.from({ length: chunks }, (_, c) => mix(theme.idle, shade(colour, c), share)));
  theme.bars = [strength(0.28), strength(1)];
  const levels = (most) =>
    kinds.map(({ colour }) => Array.from({ length: LEVELS + 1 }, (_, n) => mix(theme.idle, colour, (most * n) / LEVELS)));
  theme.merged = [levels(0.28), levels(1)];
}

function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

function mix(from, to, share) {
  const [a, b] = [channels(from), channels(to)];
  return "#" + a.map((value, i) => Math.round(value + (b[i] - value) * share).toString(16).padStart(2, "0")).join("");
}

function luminance(colour) {
  const [r, g, b] = channels(colour);
  return (0.299 * r + 0.587 * g + 0.114 * b) / 255;
}
