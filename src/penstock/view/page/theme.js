// Colours of the canvas, read from the style sheet so that light, dark and print have one source.

const theme = {};

function readTheme(kinds, chunks) {
  const style = getComputedStyle(document.documentElement);
  for (const word of ["paper", "ink", "muted", "line", "idle", "accent", "activations", "buffers", "gathered", "path"]) {
    theme[word] = style.getPropertyValue(`--${word}`).trim();
  }
  theme.gutter = parseFloat(style.getPropertyValue("--gutter"));
  theme.font = getComputedStyle(document.body).fontFamily;
  theme.pixel = Object.fromEntries(["paper", "idle", "line", "activations", "buffers", "gathered"].map((word) => [word, pixel(theme[word])]));
  // [strength][kind][chunk] and [strength][kind]; later chunks of a rank are paler, strength 0 recedes behind a selection
  const shade = (colour, c) => mix(colour, luminance(theme.paper) < 0.5 ? "#12161c" : "#ffffff", chunks > 1 ? (0.45 * c) / (chunks - 1) : 0);
  theme.colours = kinds.map(({ colour }) => Array.from({ length: chunks }, (_, c) => shade(colour, c)));
  theme.bars = [0.28, 1].map((share) => theme.colours.map((row) => row.map((colour) => pixel(mix(theme.idle, colour, share)))));
  theme.stacked = [0.28, 1].map((share) => kinds.map(({ colour }) => pixel(mix(theme.idle, colour, share))));
}

// A colour as the canvas keeps it in memory: red, green, blue, opacity, lowest byte first.
function pixel(colour) {
  const [r, g, b] = channels(colour);
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
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
