// ---------------------------------------------------------------- the map: every measured image, alike ones near each other

const EDGE = 26; // pixels around the points
const COLOURS = 12; // values with a colour of their own; the rest is grey
const places = once(() => numbersIn(data.map, Uint16Array));
const onMap = once(() => [...data.path.keys()].filter(isMeasured));
const lens = { zoom: 1, x: 0, y: 0 }; // what part of the map is seen
let lasso = []; // corners in pixels
const attributes = data.order.filter((name) => !data.numbers.includes(name));
let colouring = attributes[0] ?? "status";

const COLOURINGS = {
  ...Object.fromEntries(attributes.map((name) => [name, (i) => data.values[name][i] ?? "no label"])),
  ...(data.order.length > 1 ? { "all labels": (i) => classOf[i] } : {}),
  status: (i) => data.status[i],
  split: (i) => data.split[i],
  finding: (i) => (worst[i] > LIKELY ? "likely wrong" : findingsOf[i].length ? "with findings" : "without findings"),
  decision: (i) => (isDecided(i) ? "decided" : "not decided"),
  ...(data.predicted[""] ? { prediction: (i) => (data.predicted[""][i] < 0 ? "none" : data.predicted[""][i] === data.label[i] ? "as labelled" : "other") } : {}),
};
const hue = (k, n) => `hsl(${Math.round((360 * k) / n)} 70% 50%)`;

function pointOf(i, canvas) {
  const [w, h] = [canvas.clientWidth - 2 * EDGE, canvas.clientHeight - 2 * EDGE];
  const [u, v] = [places()[2 * i] / 65535, places()[2 * i + 1] / 65535];
  return [EDGE + w * lens.zoom * u + lens.x, EDGE + h * lens.zoom * v + lens.y];
}
function mapTab() {
  if (!data.dimensions) return $("map").replaceChildren(el("p.none", "There is no map: it takes at least two photos that were measured."));
  const canvas = el("canvas", { id: "points", tabindex: 0, "aria-label": "Map of the images" });
  const pick = el("select", { id: "colouring", onchange: (event) => ((colouring = event.target.value), mapTab()) });
  pick.append(...Object.keys(COLOURINGS).map((name) => el("option", { value: name, selected: name === colouring }, name)));
  const hint = el("span.soft", "Photos whose faces look alike lie near each other. Draw a line around some to see and decide on them; the wheel zooms.");
  const legend = el("div.legend");
  $("map").replaceChildren(el("div.bar", el("label", "colour ", pick), legend, hint), el("div.canvas", canvas, el("div.peek", { hidden: true })));
  const groups = tally(onMap().map(COLOURINGS[colouring])).sort(descending).slice(0, COLOURS);
  const colours = new Map(groups.map(([value], k) => [value, hue(k, groups.length)]));
  for (const [value, n] of groups) {
    const dot = el("i");
    dot.style.background = colours.get(value);
    legend.append(el("span", dot, `${value} (${n})`));
  }
  canvas.addEventListener("pointerdown", drawLasso);
  canvas.addEventListener("pointermove", peek);
  canvas.addEventListener("pointerleave", () => ($("map").querySelector(".peek").hidden = true));
  canvas.addEventListener("wheel", zoomMap, { passive: false });
  mapColours = colours;
  drawMap();
}
let mapColours = new Map();
function drawMap() {
  const canvas = $("points");
  if (!canvas || $("map").hidden) return;
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const size = clamp(Math.sqrt((width * height) / onMap().length) / 7, 3, 9) * Math.min(2, Math.sqrt(lens.zoom));
  const groups = grouped(onMap().map(COLOURINGS[colouring]));
  pen.globalAlpha = 0.8;
  for (const [value, members] of groups) {
    pen.fillStyle = mapColours.get(value) || "#8a9099";
    for (const n of members) {
      const [x, y] = pointOf(onMap()[n], canvas);
      if (x > -size && y > -size && x < width + size && y < height + size) pen.fillRect(x - size / 2, y - size / 2, size, size);
    }
  }
  if (lasso.length < 2) return;
  pen.globalAlpha = 1;
  pen.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark");
  pen.lineWidth = 2;
  pen.beginPath();
  lasso.forEach(([x, y]) => pen.lineTo(x, y));
  pen.closePath();
  pen.stroke();
}
// Whether a point lies within a closed line: a ray from it crosses the line an odd number of times.
function inside([x, y], corners) {
  let odd = false;
  corners.forEach(([x0, y0], k) => {
    const [x1, y1] = corners.at(k - 1);
    if (y0 > y !== y1 > y && x < x0 + ((y - y0) * (x1 - x0)) / (y1 - y0)) odd = !odd;
  });
  return odd;
}
function drawLasso(event) {
  if (event.button) return;
  const canvas = event.currentTarget;
  canvas.setPointerCapture(event.pointerId);
  lasso = [[event.offsetX, event.offsetY]];
  const move = (e) => {
    lasso.push([e.offsetX, e.offsetY]);
    requestAnimationFrame(drawMap);
  };
  const end = () => {
    canvas.removeEventListener("pointermove", move);
    const corners = lasso;
    lasso = [];
    const chosen = corners.length > 2 ? onMap().filter((i) => inside(pointOf(i, canvas), corners)) : [];
    const near = corners.length > 2 ? -1 : nearest(corners[0], canvas);
    if (chosen.length) showOnly({ only: new Set(chosen) });
    else if (near >= 0) showOnly({ only: new Set([near]) });
    else drawMap();
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end, { once: true });
}
function nearest([x, y], canvas, reach = 12) {
  let [best, far] = [-1, reach];
  for (const i of onMap()) {
    const [u, v] = pointOf(i, canvas);
    const distance = Math.hypot(u - x, v - y);
    if (distance < far) [best, far] = [i, distance];
  }
  return best;
}
function peek(event) {
  const box = $("map").querySelector(".peek");
  const i = event.buttons ? -1 : nearest([event.offsetX, event.offsetY], event.currentTarget);
  box.hidden = i < 0;
  if (i < 0) return;
  box.replaceChildren(el("div.pic", crop(i)), el("div", baseName(data.path[i])), el("div.soft", classOf[i]));
  const left = Math.min(event.offsetX + 14, event.currentTarget.clientWidth - 150);
  setPixels(box, { left, top: Math.min(event.offsetY + 14, event.currentTarget.clientHeight - 180) });
}
function zoomMap(event) {
  event.preventDefault();
  const zoom = clamp(lens.zoom * Math.exp(-event.deltaY / 300), 1, 40);
  const ratio = zoom / lens.zoom;
  const [x, y] = [event.offsetX - EDGE, event.offsetY - EDGE];
  Object.assign(lens, { zoom, x: x - (x - lens.x) * ratio, y: y - (y - lens.y) * ratio });
  if (zoom === 1) Object.assign(lens, { x: 0, y: 0 });
  requestAnimationFrame(drawMap);
}
