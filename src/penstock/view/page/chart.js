// Small line charts: the curves of one chart share its axes.

const INKS = ["#2f86c9", "#d98200", "#2cae85", "#c25b98", "#7d5ba6", "#e0703a"];
const MARGIN = { left: 62, right: 12, top: 10, bottom: 34 };

function makeChart(title, curves) {
  const canvas = element("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Chart ${title}: ${curves.map(({ name }) => name).join(", ")}`);
  const keys = curves.map((curve, i) => {
    const dash = element("i");
    dash.style.background = INKS[i % INKS.length];
    return element("span", {}, dash, curve.name);
  });
  const head = element("header", {}, element("h2", { textContent: title }), ...keys);
  const section = element("section", { className: "chart" }, head, canvas);
  const chart = { title, curves, canvas, section, g: canvas.getContext("2d"), ...limits(curves) };
  canvas.addEventListener("pointermove", (event) => hoverChart(chart, event));
  canvas.addEventListener("pointerdown", (event) => hoverChart(chart, event));
  canvas.addEventListener("pointerleave", hideTip);
  return chart;
}

function limits(curves) {
  const box = { x0: Infinity, x1: -Infinity, y0: Infinity, y1: -Infinity };
  for (const { x, y } of curves) {
    for (let i = 0; i < x.length; i++) {
      if (!Number.isFinite(y[i])) continue;
      box.x0 = Math.min(box.x0, x[i]);
      box.x1 = Math.max(box.x1, x[i]);
      box.y0 = Math.min(box.y0, y[i]);
      box.y1 = Math.max(box.y1, y[i]);
    }
  }
  if (box.x0 > box.x1) return { x0: 0, x1: 1, y0: 0, y1: 1 };
  const room = (box.y1 - box.y0 || Math.abs(box.y1) || 1) * 0.06;
  return { x0: box.x0, x1: box.x1 > box.x0 ? box.x1 : box.x0 + 1, y0: box.y0 - room, y1: box.y1 + room };
}

function drawChart(chart) {
  const { canvas, g } = chart;
  const ratio = window.devicePixelRatio || 1;
  const [wide, tall] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = wide * ratio;
  canvas.height = tall * ratio;
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, wide, tall);
  chart.toX = (x) => MARGIN.left + ((x - chart.x0) / (chart.x1 - chart.x0)) * (wide - MARGIN.left - MARGIN.right);
  chart.toY = (y) => tall - MARGIN.bottom - ((y - chart.y0) / (chart.y1 - chart.y0)) * (tall - MARGIN.bottom - MARGIN.top);
  drawChartAxes(chart, wide, tall);
  chart.curves.forEach((curve, i) => drawCurve(chart, curve, INKS[i % INKS.length]));
}

function drawChartAxes({ g, curves, x0, x1, y0, y1, toX, toY }, wide, tall) {
  const [{ unit, xName }] = curves;
  g.font = `11px ${theme.font}`;
  g.lineWidth = 1;
  const yStep = tickStep(y1 - y0, 4);
  const write = tickFormat(yStep, Math.max(Math.abs(y0), Math.abs(y1)), unit === "s" ? "s" : "");
  g.textAlign = "right";
  g.textBaseline = "middle";
  for (let n = Math.ceil(y0 / yStep); n * yStep <= y1; n++) {
    g.fillStyle = theme.line;
    g.fillRect(MARGIN.left, Math.round(toY(n * yStep)), wide - MARGIN.left - MARGIN.right, 1);
    g.fillStyle = theme.muted;
    g.fillText(write(n * yStep), MARGIN.left - 8, toY(n * yStep));
  }
  const xStep = tickStep(x1 - x0, wide / 90);
  g.textAlign = "center";
  for (let n = Math.ceil(x0 / xStep); n * xStep <= x1; n++) {
    g.fillText(String(Number((n * xStep).toPrecision(6))), toX(n * xStep), tall - MARGIN.bottom + 12);
  }
  g.fillText(xName, (MARGIN.left + wide) / 2, tall - 7);
}

function drawCurve({ g, toX, toY }, { x, y }, ink) {
  g.strokeStyle = ink;
  g.lineWidth = 1.6;
  g.lineJoin = "round";
  g.beginPath();
  let pen = false;
  for (let i = 0; i < x.length; i++) {
    if (!Number.isFinite(y[i])) pen = false;
    else if (pen) g.lineTo(toX(x[i]), toY(y[i]));
    else {
      g.moveTo(toX(x[i]), toY(y[i]));
      g.arc(toX(x[i]), toY(y[i]), 0.8, 0, 7);
      pen = true;
    }
  }
  g.stroke();
}

function hoverChart(chart, event) {
  const across = (event.offsetX - MARGIN.left) / (chart.canvas.clientWidth - MARGIN.left - MARGIN.right);
  if (across < 0 || across > 1) return hideTip();
  const x = chart.x0 + across * (chart.x1 - chart.x0);
  const facts = chart.curves.filter((curve) => curve.x.length).map((curve) => {
    const i = nearest(curve.x, x);
    const value = curve.unit === "s" ? timeText(curve.y[i], "s") : `${Number(curve.y[i].toPrecision(5))} ${curve.unit}`;
    return [curve.name, value.trim(), curve.x[i]];
  });
  if (facts.length) showTip(`${chart.curves[0].xName} ${facts[0][2]}`, facts, event.clientX, event.clientY);
}

function nearest(values, wanted) {
  const place = after(values, 0, values.length, wanted);
  if (place === 0) return 0;
  return place === values.length || wanted - values[place - 1] < values[place] - wanted ? place - 1 : place;
}
