// ---------------------------------------------------------------- the photo: its faces, the matte, zoom, full screen

const ZOOM = 16; // at most
const SHARP = 1400; // pixels that a photo is first sent with
const CROWD = 6; // more faces than this, and the unlikely ones have no tag
const UNLIKELY = 0.25; // probability of a face
let drawing = false;
let matteShown = false;
let full = false; // the photo fills the window
let current = null; // the photo that is shown, as made by stage()
let view = { image: -1, zoom: 1, x: 0, y: 0 }; // x, y: the photo's corner in the window it is seen through, pixels

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const sides = ([x0, y0, x1, y1]) => ({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
const rect = (box, kind) => svg("rect", { ...sides(box), class: kind });
const same = (a, b) => a && b && a.every((v, k) => Math.abs(v - b[k]) < 1);
const boxArea = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

const GONE =
  "The photo is not where it was when this report was made, or the browser does not know its format. " +
  "maskprep review shows it.";

function stage(i) {
  const [w, h] = [data.width[i], data.height[i]];
  current = null;
  if (!shownPhoto(i))
    return el("div.stage", el("div.note", `The photo cannot be shown: ${data.error[i] || "its size is unknown"}.`));
  if (view.image !== i) view = { image: i, zoom: 1, x: 0, y: 0 };
  const [width, most] = [$("detail").clientWidth - 26, full || labelling ? innerHeight - 190 : clamp(innerHeight * 0.46, 200, 900)];
  const scale = Math.min(width / w, most / h);
  const onerror = (event) =>
    event.target.replaceWith(el("div.note.gone", data.serve ? "This photo cannot be read." : GONE));
  const image = el("img", { src: photo(i), alt: "", draggable: "false", onerror });
  const overlay = svg("svg", { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none" });
  const frame = el("div.frame", image, overlay);
  const node = el("div.stage" + (drawing ? ".drawing" : ""), frame, zoomButtons(i));
  setPixels(node, { height: h * scale });
  current = { i, node, frame, image, scale, width, height: h * scale };
  if (matteShown && data.matte[i]) overlay.append(matteLayer(i));
  addFaces(i, frame, overlay);
  for (const row of decisionsOf[i]) {
    const box = { box: row.value, face: row.expected }[row.verdict];
    if (box) overlay.append(rect(box.split(/[ ,]+/).map(Number), "wanted"));
  }
  place();
  node.addEventListener("wheel", onWheel, { passive: false });
  node.addEventListener("pointerdown", onPointer);
  return node;
}
function addFaces(i, frame, overlay) {
  const [w, h, mine] = [data.width[i], data.height[i], data.box[i]];
  const kind = (box) => (same(box, mine) ? "mine" : "");
  const crowd = facesOf[i].length > CROWD;
  const faces = [...facesOf[i]].sort((a, b) => boxArea(b.box) - boxArea(a.box)); // the smaller ones lie on top
  for (const { number, box, mark, probability } of faces) {
    const seen = `probability of a face ${Math.round(probability * 100)}%`;
    const title = `face ${number}: mark ${mark.toFixed(2)}, ${seen}. Click its box or type ${number} to choose it.`;
    const faint = crowd && probability < UNLIKELY && !kind(box);
    const style = faint ? "face faint" : "face " + kind(box);
    overlay.append(svg("rect", { ...sides(box), class: style, "data-face": number }, svg("title", {}, title)));
    if (faint) continue;
    const onclick = () => decide([i], acts.face(number));
    const text = crowd ? String(number) : `${number}  ${mark.toFixed(2)}`;
    const tag = el("button.tag" + (kind(box) && ".mine"), { title, onclick, "data-number": number }, text);
    Object.assign(tag.style, { left: (100 * Math.max(0, box[0])) / w + "%", top: `max(17px, ${(100 * box[1]) / h}%)` });
    frame.append(tag);
  }
  if (mine && !faces.some(({ box }) => kind(box))) overlay.append(rect(mine, "mine"));
}
// What the matte removes, laid over the photo as the crop lies in it.
function matteLayer(i) {
  const [a, c, x, b, d, y] = data.transform[i];
  const [height, width] = data.crop;
  const href = `thumbs/${data.matte[i]}.png`;
  return svg("image", { href, width, height, preserveAspectRatio: "none", transform: `matrix(${[a, b, c, d, x, y]})` });
}
function zoomButtons(i) {
  const button = (text, title, onclick, on) => el("button" + (on ? ".on" : ""), { title, "aria-label": title, onclick }, text);
  return el(
    "div.zoom",
    button("+", "Zoom in ( + ), or turn the wheel", () => zoomBy(1.5)),
    button("−", "Zoom out ( - )", () => zoomBy(1 / 1.5)),
    data.matte[i] ? button("matte", "What the matte removes (m)", toggleMatte, matteShown) : null,
    button(full ? "⤡" : "⤢", "Full screen (f)", toggleFull),
  );
}

// ---------------------------------------------------------------- zoom and pan

function place() {
  const { frame, scale, width, height, i, image, node } = current;
  const [w, h] = [data.width[i] * scale * view.zoom, data.height[i] * scale * view.zoom];
  const along = (at, size, room) => (size <= room ? (room - size) / 2 : clamp(at, room - size, 0));
  view.x = along(view.x, w, width);
  view.y = along(view.y, h, height);
  setPixels(frame, { left: view.x, top: view.y, width: w, height: h });
  node.classList.toggle("zoomed", view.zoom > 1);
  const small = data.serve && Math.max(data.width[i], data.height[i]) > SHARP && Math.max(w, h) * devicePixelRatio > SHARP;
  if (!small || image.dataset.full) return;
  image.dataset.full = "1";
  const sharp = new Image();
  sharp.onload = () => (image.src = sharp.src);
  sharp.src = photo(i) + "/full";
}
// Zooms about a point of the window that the photo is seen through, by default its middle.
function zoomBy(factor, x = current?.width / 2, y = current?.height / 2) {
  if (!current) return;
  const zoom = clamp(view.zoom * factor, 1, ZOOM);
  const ratio = zoom / view.zoom;
  Object.assign(view, { zoom, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio });
  place();
}
function inWindow(event) {
  const area = current.node.getBoundingClientRect();
  return [event.clientX - area.left, event.clientY - area.top];
}
function onWheel(event) {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY / 400), ...inWindow(event));
}
// One pointer draws a box, moves the photo or chooses a face; two zoom.
const pointers = new Map();
function onPointer(event) {
  if (event.button || !current || event.target.closest("button")) return;
  if (drawing) return drawBox(event, current);
  pointers.set(event.pointerId, event);
  if (pointers.size > 1) return;
  const start = [event.clientX, event.clientY, view.x, view.y];
  let moved = false;
  const gap = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };
  const move = (e) => {
    if (!pointers.has(e.pointerId)) return;
    const before = pointers.size > 1 && gap();
    pointers.set(e.pointerId, e);
    if (before) {
      moved = true;
      return zoomBy(gap() / Math.max(1, before), ...inWindow(e));
    }
    const [dx, dy] = [e.clientX - start[0], e.clientY - start[1]];
    moved ||= Math.hypot(dx, dy) > 4;
    if (!moved || view.zoom === 1) return;
    Object.assign(view, { x: start[2] + dx, y: start[3] + dy });
    place();
  };
  const end = (e) => {
    pointers.delete(e.pointerId);
    if (pointers.size) return;
    for (const [name, listener] of Object.entries({ pointermove: move, pointerup: end, pointercancel: end }))
      removeEventListener(name, listener);
    const face = e.type === "pointerup" && !moved && e.target.closest?.("rect.face");
    if (face && current) decide([current.i], acts.face(Number(face.dataset.face)));
  };
  for (const [name, listener] of Object.entries({ pointermove: move, pointerup: end, pointercancel: end }))
    addEventListener(name, listener);
}
function drawBox(event, { i, frame }) {
  event.preventDefault();
  const overlay = frame.querySelector("svg");
  const area = frame.getBoundingClientRect();
  const scale = area.width / data.width[i];
  const point = (e) => [
    clamp((e.clientX - area.left) / scale, 0, data.width[i]),
    clamp((e.clientY - area.top) / scale, 0, data.height[i]),
  ];
  const start = point(event);
  const outline = overlay.appendChild(rect([...start, ...start], "wanted"));
  const corners = (e) => {
    const end = point(e);
    return [Math.min, Math.max].flatMap((pick) => [pick(start[0], end[0]), pick(start[1], end[1])]);
  };
  const drag = (e) => Object.entries(sides(corners(e))).forEach(([name, value]) => outline.setAttribute(name, value));
  const drop = (e) => {
    removeEventListener("pointermove", drag);
    const box = corners(e);
    drawing = false;
    if (box[2] - box[0] < 4 || box[3] - box[1] < 4) refresh();
    else decide([i], acts.box(box));
  };
  addEventListener("pointermove", drag);
  addEventListener("pointerup", drop, { once: true });
}
function toggleDrawing() {
  if (selection.size > 1 || at < 0 || !shownPhoto(at)) return;
  drawing = !drawing;
  detail(at);
}
function toggleMatte() {
  if (!data.matte.some(Boolean)) return say("there are no mattes; make them with: maskprep rembg", true);
  matteShown = !matteShown;
  document.body.classList.toggle("mattes", matteShown);
  for (const node of nodes.values()) node.remove();
  nodes.clear();
  refresh();
}
function toggleFull() {
  full = !full;
  document.body.classList.toggle("full", full);
  view.zoom = 1;
  if (full) document.documentElement.requestFullscreen?.().catch(() => {}); // else the window has to do
  else if (document.fullscreenElement) document.exitFullscreen();
  refresh();
}
document.addEventListener("fullscreenchange", () => !document.fullscreenElement && full && toggleFull());

// ---------------------------------------------------------------- the next photos, loaded before they are asked for

const AHEAD = 3;
const ahead = new Map();
function preload(i) {
  const here = position.get(i);
  const next = here === undefined ? [] : shown.slice(here + 1, here + 1 + AHEAD).filter(shownPhoto);
  for (const j of ahead.keys()) if (!next.includes(j)) ahead.delete(j);
  for (const j of next)
    if (!ahead.has(j)) {
      ahead.set(j, new Image());
      ahead.get(j).src = photo(j);
    }
}
