// ---------------------------------------------------------------- the image at hand: photo, faces, actions, findings

let detailed = -1;
let drawing = false;

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
const sides = ([x0, y0, x1, y1]) => ({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
const rect = (box, kind) => svg("rect", { ...sides(box), class: kind });
const same = (a, b) => a && b && a.every((v, k) => Math.abs(v - b[k]) < 1);

const GONE =
  "The photo is not where it was when this report was made, or the browser does not know its format. " +
  "maskprep review shows it.";

function stage(i) {
  const [w, h] = [data.width[i], data.height[i]];
  if (!shownPhoto(i))
    return el("div.stage", el("div.note", `The photo cannot be shown: ${data.error[i] || "its size is unknown"}.`));
  const scale = Math.min(($("detail").clientWidth - 26) / w, clamp(innerHeight * 0.46, 220, 900) / h);
  const onerror = (event) =>
    event.target.replaceWith(el("div.note.gone", data.serve ? "This photo cannot be read." : GONE));
  const overlay = svg("svg", { viewBox: `0 0 ${w} ${h}` });
  const frame = el("div.frame", el("img", { src: photo(i), alt: "", draggable: "false", onerror }), overlay);
  setPixels(frame, { width: w * scale, height: h * scale });
  const mine = data.box[i];
  const kind = (box) => (same(box, mine) ? "mine" : "");
  for (const { box } of facesOf[i]) overlay.append(rect(box, kind(box)));
  if (mine && !facesOf[i].some(({ box }) => kind(box))) overlay.append(rect(mine, "mine"));
  for (const row of decisionsOf[i]) {
    const box = { box: row.value, face: row.expected }[row.verdict];
    if (box) overlay.append(rect(box.split(/[ ,]+/).map(Number), "wanted"));
  }
  facesOf[i].forEach(({ number, box, mark, probability }, k) => {
    const seen = `probability of a face ${Math.round(probability * 100)}%`;
    const title = `face ${number}: mark ${mark.toFixed(2)}, ${seen}. Click or press ${k + 1} to choose it.`;
    const onclick = () => decide([i], acts.face(k));
    const tag = el("button.tag" + (kind(box) && ".mine"), { title, onclick }, `${k + 1}  ${mark.toFixed(2)}`);
    setPixels(tag, { left: Math.max(0, box[0] * scale), top: Math.max(17, box[1] * scale) });
    frame.append(tag);
  });
  frame.addEventListener("pointerdown", (event) => drawing && drawBox(event, i, frame, overlay, scale));
  return el("div.stage" + (drawing ? ".drawing" : ""), frame);
}
function drawBox(event, i, frame, overlay, scale) {
  event.preventDefault();
  const area = frame.getBoundingClientRect();
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
const targets = () => (selection.size ? [...selection] : at >= 0 ? [at] : []);

function detail(i) {
  detailed = i;
  if (i < 0) return $("detail").replaceChildren();
  const many = selection.size > 1;
  const faces = facesOf[i].length;
  const numbers = data.numbers.map((name) => data.values[name][i] !== null && `${name} ${data.values[name][i]}`);
  const size = data.width[i] ? `${data.width[i]}×${data.height[i]}` : "";
  const facts = [personOf[i] && "person " + personOf[i], data.split[i], data.status[i], classOf[i], ...numbers, size];
  const action = (text, key, act, title, disabled = false) =>
    el("button", { title, disabled, "data-act": key[0], onclick: act }, text, el("kbd", key));
  const choice = faces > 1 ? `1–${Math.min(9, faces)}` : "1";
  $("detail").replaceChildren(
    el("h2", many ? `${selection.size} images chosen; this is ` : "", data.path[i]),
    el("div.facts", facts.filter(Boolean).join(" · ")),
    stage(i),
    el(
      "div.actions",
      action("Accept", "a", shortcuts.a, "It is right as it is", !many && !data.auto[i]),
      action("Drop", "d", shortcuts.d, "Do not use this photo"),
      action("Face", choice, () => decide(targets(), acts.face(0)), "Choose a face by its number on the photo", !faces),
      action("Box", "b", toggleDrawing, "Drag a box on the photo", many || !shownPhoto(i)),
      action("Label", "l", openLabels, "Change a label", !data.order.length),
    ),
    ...decisionsOf[i].map(decisionNote),
    el("ul.reasons", findingsOf[i].map(reason)),
    ...strip(i),
  );
}
function decisionNote(row) {
  const { state, why } = stateOf.get(rowKey(row)) || {};
  const by = row.by && ` by ${row.by}`;
  const text = `Decided: ${row.verdict.replace("_", " ")} ${row.value}${by}${why ? ` — stale: ${why}` : ""}`;
  return el("div.state" + (state === "stale" ? ".stale" : ""), text);
}
function reason({ check, severity, detail }) {
  const about = el("span.soft", data.checks[check].about);
  return el("li", badge(severity), el("div", el("b", checkNames[check]), " ", about, el("div", detail)));
}
function strip(i) {
  const photos = personOf[i] ? membersOf.get(personOf[i]) : [];
  if (photos.length < 2) return [];
  const shownLabels = data.order.filter((name) => !data.numbers.includes(name));
  const buttons = photos.slice(0, 60).map((j) => {
    const label = shownLabels.map((name) => data.values[name][j]).find((value) => value !== null);
    const attributes = { title: data.path[j] + "\n" + classOf[j], onclick: () => go(j) };
    const spec = "button" + (j === i ? ".at" : "");
    return el(spec, attributes, el("div.pic", crop(j)), el("span", label || baseName(data.path[j])));
  });
  return [el("h4", `All ${photos.length} photos of ${personOf[i]}`), el("div.strip", buttons)];
}

// ---------------------------------------------------------------- the dialog of labels

function openLabels() {
  const list = targets();
  if (!list.length || !data.order.length) return;
  const set = (name, value) => {
    $("labels").close();
    decide(list, acts.label(name, value));
  };
  let key = 0;
  const rows = data.order.map((name) => {
    const now = new Set(list.map((i) => data.values[name][i]));
    if (data.numbers.includes(name)) return numberRow(name, now.size === 1 ? [...now][0] : "", set);
    const buttons = data.attributes[name].slice(0, 40).map((value) => {
      key += 1;
      const hint = key < 10 ? [" ", el("kbd", String(key))] : [];
      const attributes = { "data-key": key < 10 ? key : "", onclick: () => set(name, value) };
      return el("button" + (now.has(value) ? ".on" : ""), attributes, value, ...hint);
    });
    return el("div.choice", el("b", name), buttons);
  });
  $("labels").replaceChildren(
    el("h2", list.length > 1 ? `Label of ${list.length} images` : "Label"),
    ...rows,
    el("div.soft", "A number chooses, Esc closes. The old label becomes the expected one."),
  );
  $("labels").showModal();
}
function numberRow(name, value, set) {
  const input = el("input", { type: "number", step: "any", size: 5, value });
  const apply = () =>
    input.value !== "" && Number.isFinite(Number(input.value)) && set(name, String(Number(input.value)));
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") (event.preventDefault(), apply());
    if (event.key === "Escape") $("labels").close();
  });
  return el("div.choice", el("b", name), input, el("button", { onclick: apply }, "set"));
}
$("labels").addEventListener("keydown", (event) => {
  event.stopPropagation(); // the same key must not decide on the grid once the dialog has closed
  const choice = /^[1-9]$/.test(event.key) && $("labels").querySelector(`[data-key="${event.key}"]`);
  if (choice) (event.preventDefault(), choice.click());
});
