"use strict";
// The audit page. Everything that comes from the data set is text: it goes in by textContent or setAttribute, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const count = data.path.length;
const LIKELY = 0.5;

// ---------------------------------------------------------------- small things

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}
const level = (s) => (s > 0.8 ? "sure" : s > LIKELY ? "likely" : "");
const badge = (s) => make("span", { class: "badge " + level(s) }, s.toFixed(2));
const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);
const boxText = (box) => box.map((v) => v.toFixed(1)).join(" ");

function remember(name, value) { try { localStorage.setItem(name, value); } catch { /* private window: nothing is kept */ } }
function recall(name) { try { return localStorage.getItem(name); } catch { return null; } }

// ---------------------------------------------------------------- what is known of each image

const findingsOf = Array.from({ length: count }, () => []);
for (const [i, check, severity, detail] of data.findings) findingsOf[i].push({ check, severity, detail });
const worst = findingsOf.map((list) => list.reduce((m, f) => Math.max(m, f.severity), 0));
const total = findingsOf.map((list) => list.reduce((m, f) => m + f.severity, 0));
const membersOf = new Map();
data.person.forEach((p, i) => { if (p >= 0) (membersOf.get(p) || membersOf.set(p, []).get(p)).push(i); });
const ordered = [...Array(count).keys()].sort((a, b) => worst[b] - worst[a] || total[b] - total[a] || a - b);
const withFindings = ordered.filter((i) => findingsOf[i].length);
const searchable = data.path.map((path, i) => [path, data.people[data.person[i]] || "", ...findingsOf[i].map((f) => data.checks[f.check].name + " " + f.detail)].join("\n").toLowerCase());
const byContent = new Map();
data.content.forEach((c, i) => (byContent.get(c) || byContent.set(c, []).get(c)).push(i));

function className(i) { return data.label[i] >= 0 ? data.classes[data.label[i]] : "no label"; }
function thumb(i) { return data.thumb[i] ? "thumbs/" + data.thumb[i] + ".jpg" : null; }
function photo(i) { return data.serve ? "photo/" + i : data.root + data.path[i].split("/").map(encodeURIComponent).join("/"); }

// ---------------------------------------------------------------- rulings

const COLUMNS = ["content", "image", "verdict", "value", "expected", "reason", "by", "when"];
const KEEP = "maskprep-rulings-" + data.id;
let rulings = data.rulings.map((r) => ({ ...r }));
let undoable = [];
const stateOf = new Map(data.states.map(([row, state, why]) => [rowKey(row), { state, why }]));

function rowKey(r) { return COLUMNS.map((c) => r[c] || "").join("\u001f"); }
function topic(r) {
  const what = r.verdict === "relabel" ? "label " + r.value.split("=")[0].trim() : r.value.startsWith("duplicate:") ? r.value : "face";
  return [r.content, r.image, what].join("\u001f");
}
function holders(r) {
  const all = byContent.get(r.content) || [];
  const own = all.filter((i) => data.path[i] === r.image);
  return own.length ? own : all;
}
let rulingsOf = [];
function indexRulings() {
  rulingsOf = Array.from({ length: count }, () => []);
  for (const r of rulings) for (const i of holders(r)) rulingsOf[i].push(r);
}
function isRuled(i) { return rulingsOf[i].some((r) => !r.value.startsWith("duplicate:") && (stateOf.get(rowKey(r)) || {}).state !== "stale"); }

function localChanges() { try { return JSON.parse(recall(KEEP)) || null; } catch { return null; } }
function keepLocally() {
  const base = new Set(data.rulings.map(rowKey)), now = new Set(rulings.map(rowKey));
  remember(KEEP, JSON.stringify({ added: rulings.filter((r) => !base.has(rowKey(r))), removed: data.rulings.filter((r) => !now.has(rowKey(r))) }));
}
function applyChange(add, remove) {
  const gone = new Set(remove.map(rowKey));
  rulings = rulings.filter((r) => !gone.has(rowKey(r)));
  const have = new Set(rulings.map(rowKey));
  rulings.push(...add.filter((r) => !have.has(rowKey(r))));
  indexRulings();
}

let waiting = Promise.resolve();
function commit(add, remove) {
  applyChange(add, remove);
  if (!data.serve) { keepLocally(); say("kept in this browser"); return; }
  say("saving …");
  waiting = waiting.then(async () => {
    try {
      const answer = await fetch("rulings", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ add, remove }) });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error || answer.statusText);
      rulings = body.rulings; indexRulings(); refresh(); say("saved");
    } catch (error) {
      applyChange(remove, add);   // take it back: what is shown is what is kept
      refresh(); say("not saved: " + error.message, true);
    }
  });
}
async function poll() {   // another tab or person may have ruled
  if (!data.serve || document.hidden) return;
  await waiting;
  try {
    const answer = await fetch("rulings");
    if (!answer.ok) return;
    const now = (await answer.json()).rulings;
    if (now.map(rowKey).join() !== rulings.map(rowKey).join()) { rulings = now; indexRulings(); refresh(); say("updated by another tab"); }
  } catch { say("the server is gone: start maskprep review again", true); }
}
function say(text, bad = false) { $("saved").textContent = text; $("saved").className = bad ? "bad" : ""; }

function rowFor(i, verdict, value = "", expected = "") {
  return { content: data.content[i], image: data.path[i], verdict, value, expected, reason: "", by: $("by").value.trim(), when: new Date().toISOString().slice(0, 19) + "Z" };
}
function rule(list, build) {   // build(i) gives a row or null where it cannot be
  const add = [], remove = [], refused = [];
  for (const i of list) {
    const row = build(i);
    if (!row) { refused.push(i); continue; }
    const mine = topic(row);
    remove.push(...rulings.filter((r) => topic(r) === mine || (r.content === row.content && holders(r).includes(i) && topic({ ...r, image: row.image }) === mine)));
    add.push(row);
  }
  if (add.length) {
    undoable.push({ add, remove, at });
    commit(add, remove);
    const following = list.length === 1 ? neighbour(list[0]) : null;
    if (list.length > 1) selection.clear();
    if (following !== null && add[0].verdict !== "relabel") at = following;
  }
  refresh();
  if (refused.length) say(refused.length === 1 ? "that cannot be ruled here" : refused.length + " could not be ruled so", true);
}
const expectedBox = (i) => (data.auto[i] ? boxText(data.auto[i]) : "");
const acts = {
  keep: (i) => (data.auto[i] ? rowFor(i, "keep", "", expectedBox(i)) : null),
  drop: (i) => rowFor(i, "drop", "", data.auto[i] ? expectedBox(i) : ""),
  face: (k) => (i) => (data.faces[i][k] ? rowFor(i, "face", String(data.faces[i][k][0]), boxText(data.faces[i][k].slice(1, 5))) : null),
  box: (box) => (i) => rowFor(i, "box", boxText(box), expectedBox(i)),
  label: (name, value) => (i) => {
    const old = data.values[name][i];
    if (old === value) return null;
    return rowFor(i, "relabel", name + "=" + value, old === null ? "" : name + "=" + old);
  },
};
function undo() {
  const last = undoable.pop();
  if (!last) { say("nothing to undo"); return; }
  commit(last.remove, last.add);
  at = last.at;
  refresh();
}
function guard(text) {   // a cell that no spreadsheet computes; the same rule as the program's
  return (/^[=+\-@\t\r]/.test(text) && !/^-?[\d.]+([ ,]+-?[\d.]+)*$/.test(text)) || text.startsWith("'") ? "'" + text : text;
}
function csv() {
  const cell = (text) => (/[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  return [COLUMNS, ...rulings.map((r) => COLUMNS.map((c) => guard(r[c] || "")))].map((row) => row.map(cell).join(",") + "\n").join("");
}
function exportCsv() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: url, download: "decisions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  say("exported " + rulings.length + " rulings");
}
function verdictText(i) {
  const live = rulingsOf[i].filter((r) => (stateOf.get(rowKey(r)) || {}).state !== "stale" && !r.value.startsWith("duplicate:"));
  if (!live.length) return "";
  const word = { keep: "accepted", drop: "dropped", face: "other face", box: "own box" };
  return live.map((r) => (r.verdict === "relabel" ? r.value.replace("=", ": ") : word[r.verdict])).join(", ");
}

// ---------------------------------------------------------------- filters

const filter = { text: "", show: "open", severity: 0.2, checks: new Set(), statuses: new Set(), classes: new Set(), splits: new Set(), person: "" };
let shown = [], position = new Map(), at = -1;
const selection = new Set();

function passes(i, but = "") {
  if (filter.text && !searchable[i].includes(filter.text)) return false;
  if (filter.person && but !== "person" && (data.people[data.person[i]] || "") !== filter.person) return false;
  if (filter.statuses.size && but !== "statuses" && !filter.statuses.has(data.status[i])) return false;
  if (filter.classes.size && but !== "classes" && !filter.classes.has(className(i))) return false;
  if (filter.splits.size && but !== "splits" && !filter.splits.has(data.split[i])) return false;
  if (filter.show === "open" && (isRuled(i) && !sticky.has(i))) return false;
  if (filter.show === "ruled" && !isRuled(i)) return false;
  if (filter.show === "every") return true;
  if (filter.show === "ruled" && !filter.checks.size) return true;
  return findingsOf[i].some((f) => f.severity >= filter.severity - 1e-9 && (but === "checks" || !filter.checks.size || filter.checks.has(f.check)));
}
const sticky = new Set();   // ruled just now: they stay in sight until the filter changes
function sift(reset = true) {
  if (reset) { sticky.clear(); }
  const pool = filter.show === "every" || filter.show === "ruled" ? ordered : withFindings;
  shown = pool.filter((i) => passes(i));
  if (filter.checks.size) {
    const mark = (i) => findingsOf[i].reduce((m, f) => (filter.checks.has(f.check) ? Math.max(m, f.severity) : m), 0);
    const marks = new Map(shown.map((i) => [i, mark(i)]));
    shown.sort((a, b) => marks.get(b) - marks.get(a) || worst[b] - worst[a] || a - b);
  }
  position = new Map(shown.map((i, n) => [i, n]));
  if (reset) { selection.clear(); at = shown.length ? shown[0] : -1; $("scroll").scrollTop = 0; }
}
function refilter() { sift(); facets(); refresh(); }

function tally(values) { const map = new Map(); for (const v of values) map.set(v, (map.get(v) || 0) + 1); return map; }
function facet(title, key, entries, name = (v) => v, hint = () => null) {
  const live = entries.filter(([v, n]) => n || filter[key].has(v));
  if (!live.length || (live.length < 2 && !filter[key].size && key !== "checks")) return null;
  return make("div", { class: "facet", "data-facet": key }, make("h3", {}, title), live.map(([v, n]) =>
    make("button", { class: "option" + (filter[key].has(v) ? " on" : ""), title: hint(v), "aria-pressed": filter[key].has(v) ? "true" : "false", "data-value": data.checks[v] && key === "checks" ? data.checks[v].name : v,
      onclick: () => { filter[key].has(v) ? filter[key].delete(v) : filter[key].add(v); refilter(); } },
      make("span", {}, name(v)), make("span", {}, String(n)))));
}
function facets() {
  const pool = filter.show === "every" || filter.show === "ruled" ? ordered : withFindings;
  const rows = (key) => pool.filter((i) => passes(i, key));
  const checkCounts = new Map();
  for (const i of rows("checks")) for (const f of findingsOf[i]) if (f.severity >= filter.severity - 1e-9) checkCounts.set(f.check, (checkCounts.get(f.check) || 0) + 1);
  const parts = [];
  for (const kind of data.kinds) {
    const entries = data.checks.map((c, k) => [k, checkCounts.get(k) || 0]).filter(([k]) => data.checks[k].kind === kind).sort((a, b) => b[1] - a[1]);
    parts.push(facet(kind, "checks", entries, (k) => data.checks[k].name.replaceAll("_", " "), (k) => data.checks[k].about));
  }
  parts.push(facet("status", "statuses", [...tally(rows("statuses").map((i) => data.status[i]))].sort((a, b) => b[1] - a[1])));
  parts.push(facet("split", "splits", [...tally(rows("splits").map((i) => data.split[i]))].sort()));
  const people = make("input", { id: "person", list: "people", placeholder: "name", value: filter.person, autocomplete: "off", spellcheck: "false" });
  people.addEventListener("change", () => { filter.person = people.value.trim(); refilter(); });
  if (data.people.length) parts.push(make("div", { class: "facet" }, make("h3", {}, "person"), people));
  parts.push(facet("class", "classes", [...tally(rows("classes").map(className))].sort((a, b) => b[1] - a[1]).slice(0, 60)));
  $("facets").replaceChildren(...parts.filter(Boolean));
  const choices = [["open", "to rule"], ["ruled", "ruled"], ["findings", "both"], ["every", "all"]];
  $("show").replaceChildren(...choices.map(([key, text]) => make("button", { class: filter.show === key ? "on" : "", "data-show": key, onclick: () => { filter.show = key; refilter(); } }, text)));
}
function clearFilters() {
  Object.assign(filter, { text: "", show: "open", severity: 0.2, person: "" });
  for (const key of ["checks", "statuses", "classes", "splits"]) filter[key].clear();
  $("search").value = ""; $("severity").value = 0.2; $("severity-text").textContent = "0.20";
  refilter();
}

// ---------------------------------------------------------------- the grid: only what is in sight exists

const GAP = 8, WISHED = 124;
let columns = 1, cellWidth = WISHED, cellHeight = WISHED + 41;
const nodes = new Map();
function layout() {
  const width = $("scroll").clientWidth - GAP;
  columns = Math.max(1, Math.floor(width / (WISHED + GAP)));
  cellWidth = Math.floor(width / columns) - GAP;
  cellHeight = cellWidth + 41;
}
function paint() {
  const scroll = $("scroll");
  $("sizer").style.height = Math.ceil(shown.length / columns) * (cellHeight + GAP) + GAP + "px";
  const first = Math.max(0, Math.floor(scroll.scrollTop / (cellHeight + GAP)) - 1) * columns;
  const last = Math.min(shown.length, (Math.ceil((scroll.scrollTop + scroll.clientHeight) / (cellHeight + GAP)) + 1) * columns);
  const wanted = new Set(shown.slice(first, last));
  for (const [i, node] of nodes) if (!wanted.has(i)) { node.remove(); nodes.delete(i); }
  for (let n = first; n < last; n++) {
    const i = shown[n];
    let node = nodes.get(i);
    if (!node) { node = card(i); nodes.set(i, node); $("cards").append(node); }
    node.style.left = GAP + (n % columns) * (cellWidth + GAP) + "px";
    node.style.top = GAP + Math.floor(n / columns) * (cellHeight + GAP) + "px";
    node.style.width = cellWidth + "px";
    node.style.height = cellHeight + "px";
    dress(node, i);
  }
  const empty = $("empty");
  if (!shown.length && !empty) $("sizer").append(make("div", { id: "empty" }, withFindings.length ? "Nothing here. Everything is ruled, or the filters leave nothing." : "No findings: the checks have nothing to say against these photos."));
  if (shown.length && empty) empty.remove();
}
function picture(i) {
  const source = thumb(i);
  return source ? make("img", { src: source, alt: "", decoding: "async", draggable: "false" }) : data.error[i] || "no crop";
}
function card(i) {
  const top = findingsOf[i][0];
  const node = make("div", { class: "card", "data-image": data.path[i] },
    make("div", { class: "pic" }, picture(i), top ? make("span", { class: "severity badge " + level(worst[i]) }, worst[i].toFixed(2)) : null),
    make("div", { class: "text" },
      make("div", { class: "why" }, top ? data.checks[top.check].name.replaceAll("_", " ") + (findingsOf[i].length > 1 ? "  +" + (findingsOf[i].length - 1) : "") : className(i)),
      make("div", { class: "file" }, data.label[i] >= 0 ? className(i) : baseName(data.path[i]))));
  node.addEventListener("click", (event) => {
    if (event.shiftKey && at >= 0 && position.has(at)) { const [a, b] = [position.get(at), position.get(i)].sort((x, y) => x - y); for (let n = a; n <= b; n++) selection.add(shown[n]); }
    else if (event.ctrlKey || event.metaKey) { selection.has(i) ? selection.delete(i) : selection.add(i); }
    at = i; refresh();
  });
  node.addEventListener("mouseenter", () => { hover = i; setTimeout(() => { if (hover === i && i !== at && !drawing && !selection.size) detail(i); }, 250); });
  node.addEventListener("mouseleave", () => { if (hover === i) { hover = -1; setTimeout(() => { if (hover < 0 && detailed !== at) detail(at); }, 120); } });
  return node;
}
let hover = -1;
function dress(node, i) {
  const text = verdictText(i);
  const kind = "card" + (i === at ? " at" : "") + (selection.has(i) ? " chosen" : "") + (text ? " done" : "");
  if (node.className !== kind) node.className = kind;
  const old = node.querySelector(".ruled");
  if ((old ? old.textContent : "") !== text) {
    if (old) old.remove();
    if (text) node.querySelector(".pic").append(make("span", { class: "ruled" + (text === "dropped" ? " drop" : "") }, text));
  }
}
function reveal() {
  if (!position.has(at)) return;
  const top = Math.floor(position.get(at) / columns) * (cellHeight + GAP), scroll = $("scroll");
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  else if (top + cellHeight + 2 * GAP > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + cellHeight + 2 * GAP - scroll.clientHeight;
}
function neighbour(i) {   // the next image that is still to be ruled, else the next one
  const n = position.get(i);
  if (n === undefined) return null;
  for (let k = n + 1; k < shown.length; k++) if (!isRuled(shown[k])) return shown[k];
  return n + 1 < shown.length ? shown[n + 1] : i;
}
function move(step) {
  if (!shown.length) return;
  const n = position.has(at) ? position.get(at) + step : 0;
  at = shown[Math.max(0, Math.min(shown.length - 1, n))];
  refresh();
}

// ---------------------------------------------------------------- the image at hand

let detailed = -1, drawing = false;
const SVG = "http://www.w3.org/2000/svg";
function rect(box, kind) {
  const node = document.createElementNS(SVG, "rect");
  [["x", box[0]], ["y", box[1]], ["width", box[2] - box[0]], ["height", box[3] - box[1]], ["class", kind]].forEach(([n, v]) => node.setAttribute(n, v));
  return node;
}
const same = (a, b) => a && b && a.every((v, k) => Math.abs(v - b[k]) < 1);

function stage(i) {
  const w = data.width[i], h = data.height[i];
  if (!w || !h || data.error[i]) return make("div", { class: "stage" }, make("div", { class: "note" }, "The photo cannot be shown: " + (data.error[i] || "its size is unknown") + "."));
  const room = $("detail").clientWidth - 26, tall = Math.max(220, Math.min(innerHeight * 0.46, 900));
  const scale = Math.min(room / w, tall / h);
  const frame = make("div", { class: "frame" });
  frame.style.width = w * scale + "px"; frame.style.height = h * scale + "px";
  const image = make("img", { src: photo(i), alt: "", draggable: "false" });
  image.addEventListener("error", () => {
    image.replaceWith(make("div", { class: "note gone" }, data.serve ? "This photo cannot be read." : "The photo is not where it was when this report was made, or the browser does not know its format. maskprep review shows it."));
  });
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  const mine = data.box[i];
  let seen = false;
  data.faces[i].forEach((face) => { const own = same(face.slice(1, 5), mine); seen = seen || own; svg.append(rect(face.slice(1, 5), own ? "mine" : "")); });
  if (mine && !seen) svg.append(rect(mine, "mine"));
  for (const r of rulingsOf[i]) {
    const box = r.verdict === "box" ? r.value : r.verdict === "face" ? r.expected : "";
    if (box) svg.append(rect(box.split(/[ ,]+/).map(Number), "wanted"));
  }
  frame.append(image, svg);
  data.faces[i].forEach((face, k) => {
    const tag = make("button", { class: "tag" + (same(face.slice(1, 5), mine) ? " mine" : ""), title: `face ${face[0]}: mark ${face[5].toFixed(2)}, seen by ${Math.round(face[6] * 100)}% of the detectors. Click or press ${k + 1} to choose it.`,
      onclick: () => rule([i], acts.face(k)) }, `${k + 1}  ${face[5].toFixed(2)}`);
    tag.style.left = Math.max(0, face[1] * scale) + "px"; tag.style.top = Math.max(17, face[2] * scale) + "px";
    frame.append(tag);
  });
  const box = make("div", { class: "stage" + (drawing ? " drawing" : "") }, frame);
  frame.addEventListener("pointerdown", (event) => {
    if (!drawing) return;
    event.preventDefault();
    const area = frame.getBoundingClientRect();
    const point = (e) => [Math.max(0, Math.min(w, (e.clientX - area.left) / scale)), Math.max(0, Math.min(h, (e.clientY - area.top) / scale))];
    const start = point(event), outline = rect([...start, ...start], "wanted");
    svg.append(outline);
    const corners = (e) => { const end = point(e); return [Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])]; };
    const drag = (e) => { const b = corners(e); outline.setAttribute("x", b[0]); outline.setAttribute("y", b[1]); outline.setAttribute("width", b[2] - b[0]); outline.setAttribute("height", b[3] - b[1]); };
    const drop = (e) => {
      removeEventListener("pointermove", drag); removeEventListener("pointerup", drop);
      const b = corners(e);
      drawing = false;
      if (b[2] - b[0] < 4 || b[3] - b[1] < 4) { refresh(); return; }
      rule([i], acts.box(b));
    };
    addEventListener("pointermove", drag); addEventListener("pointerup", drop);
  });
  return box;
}
function targets() { return selection.size ? [...selection] : at >= 0 ? [at] : []; }
function button(text, key, act, title, off = false) { return make("button", { title, disabled: off, "data-act": key, onclick: act }, text, make("kbd", {}, key)); }

function detail(i) {
  detailed = i;
  const place = $("detail");
  if (i < 0) { place.replaceChildren(); return; }
  const many = selection.size > 1;
  const facts = [data.people[data.person[i]] ? "person " + data.people[data.person[i]] : null, data.split[i], data.status[i], className(i),
    ...data.order.filter((n) => data.numbers.includes(n) && data.values[n][i] !== null).map((n) => n + " " + data.values[n][i]), data.width[i] ? data.width[i] + "×" + data.height[i] : null].filter(Boolean).join(" · ");
  const reasons = make("ul", { class: "reasons" }, findingsOf[i].map((f) => make("li", {}, badge(f.severity),
    make("div", {}, make("b", {}, data.checks[f.check].name.replaceAll("_", " ")), " ", make("span", { class: "soft" }, data.checks[f.check].about), make("div", {}, f.detail)))));
  const ruled = rulingsOf[i].map((r) => {
    const state = stateOf.get(rowKey(r)) || { state: "", why: "" };
    return make("div", { class: "state" + (state.state === "stale" ? " stale" : "") }, `Ruled: ${r.verdict} ${r.value}` + (r.by ? ` by ${r.by}` : "") + (state.why ? ` — stale: ${state.why}` : ""));
  });
  const group = data.person[i] >= 0 ? membersOf.get(data.person[i]) : [];
  const strip = group.length > 1 ? [make("h4", {}, `All ${group.length} photos of ${data.people[data.person[i]]}`), make("div", { class: "strip" }, group.slice(0, 60).map((j) => {
    const label = data.order.filter((n) => !data.numbers.includes(n)).map((n) => data.values[n][j]).filter((v) => v !== null)[0] || "";
    return make("button", { class: j === i ? "at" : "", title: data.path[j] + "\n" + className(j), onclick: () => { at = j; refresh(); } }, make("div", { class: "pic" }, picture(j)), make("span", {}, label || baseName(data.path[j])));
  }))] : [];
  const faces = data.faces[i].length;
  place.replaceChildren(
    make("h2", {}, many ? `${selection.size} images chosen; this is ` : "", data.path[i]), make("div", { class: "facts" }, facts),
    stage(i),
    make("div", { class: "actions" },
      button("Accept", "a", () => rule(targets(), acts.keep), "It is right as it is", !many && !data.auto[i]),
      button("Drop", "d", () => rule(targets(), acts.drop), "Do not use this photo"),
      button("Face", faces > 1 ? `1–${Math.min(9, faces)}` : "1", () => rule(targets(), acts.face(0)), "Choose a face by its number on the photo", !faces),
      button("Box", "b", () => { drawing = !drawing; detail(at); }, "Drag a box on the photo", many || !data.width[i] || !!data.error[i]),
      button("Label", "l", openLabels, "Change a label", !data.order.length)),
    ...ruled, reasons, ...strip);
}
function openLabels() {
  const list = targets();
  if (!list.length || !data.order.length) return;
  let key = 0;
  const rows = data.order.map((name) => {
    const now = new Set(list.map((i) => data.values[name][i]));
    if (data.numbers.includes(name)) {
      const field = make("input", { type: "number", step: "any", size: 5, value: now.size === 1 ? [...now][0] ?? "" : "" });
      const set = () => { if (field.value !== "" && Number.isFinite(Number(field.value))) { $("labels").close(); rule(list, acts.label(name, String(Number(field.value)))); } };
      field.addEventListener("keydown", (event) => { event.stopPropagation(); if (event.key === "Enter") { event.preventDefault(); set(); } if (event.key === "Escape") $("labels").close(); });
      return make("div", { class: "choice" }, make("b", {}, name), field, make("button", { onclick: set }, "set"));
    }
    return make("div", { class: "choice" }, make("b", {}, name), data.attributes[name].slice(0, 40).map((value) => {
      key += 1;
      return make("button", { class: now.has(value) ? "on" : "", "data-key": key < 10 ? key : "", onclick: () => { $("labels").close(); rule(list, acts.label(name, value)); } }, value, key < 10 ? [" ", make("kbd", {}, String(key))] : null);
    }));
  });
  $("labels").replaceChildren(make("h2", {}, list.length > 1 ? `Label of ${list.length} images` : "Label"), ...rows, make("div", { class: "soft" }, "A number chooses, Esc closes. The old label is kept as what the ruling expects."));
  $("labels").showModal();
}
$("labels").addEventListener("keydown", (event) => {
  event.stopPropagation();   // the same key must not rule on the grid once the dialog has closed
  const choice = /^[1-9]$/.test(event.key) && $("labels").querySelector(`[data-key="${event.key}"]`);
  if (choice) { event.preventDefault(); choice.click(); }
});

// ---------------------------------------------------------------- overview

function lines(entries, largest) {
  return entries.map(({ name, n, likely = 0, title, click }) => {
    const meter = make("span", { class: "meter" }, make("i", { class: "likely" }), make("i", {}));
    meter.children[0].style.width = (100 * likely) / largest + "%";
    meter.children[1].style.width = (100 * (n - likely)) / largest + "%";
    return make(click ? "button" : "div", { class: "line", title, onclick: click || (() => {}) }, make("span", {}, name), meter, make("span", {}, likely ? `${n} (${likely})` : String(n)));
  });
}
function panel(title, entries, about, wide = false) {
  const largest = Math.max(1, ...entries.map((e) => e.n));
  return make("section", { class: "panel" + (wide ? " wide" : "") }, make("h2", {}, title), about ? make("p", { class: "about" }, about) : null, lines(entries, largest));
}
function overview() {
  const perCheck = data.checks.map(() => [0, 0]);
  for (const list of findingsOf) for (const f of list) { perCheck[f.check][0] += 1; if (f.severity > LIKELY) perCheck[f.check][1] += 1; }
  const go = (key, value) => () => { for (const k of ["checks", "statuses", "classes", "splits"]) filter[k].clear(); filter[key].add(value); filter.show = key === "checks" ? "open" : "every"; tab("grid"); refilter(); };
  const checks = data.checks.map((c, k) => ({ name: c.name.replaceAll("_", " "), n: perCheck[k][0], likely: perCheck[k][1], title: c.about, click: go("checks", k) })).filter((e) => e.n).sort((a, b) => b.likely - a.likely || b.n - a.n);
  const simple = (values, key) => [...tally(values)].sort((a, b) => b[1] - a[1]).slice(0, 40).map(([name, n]) => ({ name, n, click: key ? go(key, name) : null }));
  const bins = Array.from({ length: 8 }, (_, k) => ({ name: `${(0.2 + k / 10).toFixed(1)} – ${(0.3 + k / 10).toFixed(1)}`, n: 0 })).reverse();
  for (const i of withFindings) bins[7 - Math.min(7, Math.max(0, Math.floor((worst[i] - 0.2) * 10 + 1e-9)))].n += 1;
  const quiet = data.checks.filter((c, k) => !perCheck[k][0] && !c.not_run).map((c) => c.name.replaceAll("_", " "));
  const reasons = new Map();
  for (const c of data.checks) if (c.not_run) (reasons.get(c.not_run) || reasons.set(c.not_run, []).get(c.not_run)).push(c.name.replaceAll("_", " "));
  const facesPer = tally(data.faces.map((f) => f.length));
  $("overview").replaceChildren(
    make("section", { class: "panel wide" }, make("h2", {}, `${count} images, ${withFindings.length} with findings, ${withFindings.filter((i) => worst[i] > LIKELY).length} of them likely wrong`),
      make("p", { class: "about" }, `Made ${data.made} from ${data.source}. The severity of a finding is about how likely a person who looks will change something; above 0.5 it counts as likely (orange).`)),
    panel("Findings per check", checks, "all, and in brackets the likely ones; click to see them"),
    panel("Images by their worst finding", bins),
    panel("Status of the subject", simple(data.status, "statuses")),
    panel("Class", simple([...Array(count).keys()].map(className), "classes")),
    panel("Split", simple(data.split, "splits")),
    panel("Faces per photo", [...facesPer].sort((a, b) => a[0] - b[0]).map(([n, k]) => ({ name: n === 1 ? "1 face" : n + " faces", n: k }))),
    make("section", { class: "panel" }, make("h2", {}, "Checks"), [...reasons].map(([why, names]) => make("p", {}, make("b", {}, "Not run: "), names.join(", "), make("span", { class: "soft" }, " — " + why))),
      make("p", {}, make("b", {}, "Found nothing: "), quiet.join(", ") || "none")));
}

// ---------------------------------------------------------------- keys and buttons

const KEYS = [["a", "accept: it is right as it is"], ["d", "drop the photo"], ["1 … 9", "choose that face"], ["b", "draw a box (drag on the photo)"], ["l", "change a label, then a number"], ["u", "undo"],
  ["← → ↑ ↓", "move; with Shift also choose"], ["n", "next that is not ruled"], ["x", "choose or unchoose"], ["p", "choose all photos of this person"], ["Ctrl A", "choose all that are shown"], ["Esc", "let go of the choice"], ["/", "search"], ["o / g", "overview / findings"], ["e", "export decisions.csv"], ["t", "dark or light"]];
function help() {
  $("help").replaceChildren(make("h2", {}, "Keys"), make("dl", {}, KEYS.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)])),
    make("p", { class: "soft" }, "Every ruling applies to all chosen images, or to the one with the frame. Ctrl-click and Shift-click choose too." + (data.serve ? " Rulings are written to decisions.csv at once." : " Rulings stay in this browser until they are exported.")),
    make("button", { onclick: () => $("help").close() }, "Close"));
  $("help").showModal();
}
function tab(which) {
  $("grid-page").hidden = which !== "grid"; $("overview").hidden = which !== "overview";
  $("tab-grid").classList.toggle("on", which === "grid"); $("tab-overview").classList.toggle("on", which === "overview");
  if (which === "overview") overview(); else { layout(); paint(); }
}
function theme(dark) { document.documentElement.classList.toggle("dark", dark); remember("maskprep-theme", dark ? "dark" : "light"); }

function refresh() {
  for (const i of withFindings) if (isRuled(i) && position.has(i)) sticky.add(i);
  layout(); reveal(); paint(); detail(at);
  const done = withFindings.filter(isRuled).length;
  const all = withFindings.length;
  $("progress-bar").style.width = (all ? (100 * done) / all : 100) + "%";
  $("progress-text").textContent = `${done} of ${all} ruled`;
  $("count").textContent = `${shown.length} images` + (position.has(at) ? `, at ${position.get(at) + 1}` : "");
  $("selected").textContent = selection.size ? `${selection.size} chosen` : "";
  $("undo").disabled = !undoable.length;
}
const shortcuts = {
  a: () => rule(targets(), acts.keep), d: () => rule(targets(), acts.drop), b: () => { if (selection.size < 2 && at >= 0 && data.width[at] && !data.error[at]) { drawing = !drawing; detail(at); } },
  l: openLabels, u: undo, n: () => { const next = neighbour(at); if (next !== null) { at = next; refresh(); } }, x: () => { if (at >= 0) { selection.has(at) ? selection.delete(at) : selection.add(at); refresh(); } },
  p: () => { const group = membersOf.get(data.person[at]); if (group) { group.forEach((i) => selection.add(i)); refresh(); } },
  o: () => tab("overview"), g: () => tab("grid"), e: exportCsv, t: () => theme(!document.documentElement.classList.contains("dark")), "?": help, "/": () => $("search").focus(),
  Escape: () => { if (drawing) drawing = false; else selection.clear(); refresh(); },
  Home: () => move(-Infinity), End: () => move(Infinity), PageDown: () => move(columns * 4), PageUp: () => move(-columns * 4),
};
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, select, textarea")) { if (event.key === "Escape") event.target.blur(); return; }
  if ((event.ctrlKey || event.metaKey) && event.key === "a" && !$("grid-page").hidden) { event.preventDefault(); shown.forEach((i) => selection.add(i)); refresh(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const onGrid = !$("grid-page").hidden;
  if (event.key in steps && onGrid) { event.preventDefault(); if (event.shiftKey && at >= 0) selection.add(at); move(steps[event.key]); if (event.shiftKey && at >= 0) { selection.add(at); refresh(); } return; }
  if (/^[1-9]$/.test(event.key) && onGrid) { rule(targets(), acts.face(Number(event.key) - 1)); return; }
  const act = shortcuts[event.key];
  if (act && (onGrid || "ogetu?".includes(event.key))) { event.preventDefault(); act(); }
});
$("undo").onclick = undo;
$("export").onclick = exportCsv;
$("theme").onclick = shortcuts.t;
$("help-button").onclick = help;
$("tab-grid").onclick = () => tab("grid");
$("tab-overview").onclick = () => tab("overview");
$("clear").onclick = clearFilters;
$("search").addEventListener("input", () => { filter.text = $("search").value.trim().toLowerCase(); refilter(); });
$("severity").addEventListener("input", () => { filter.severity = Number($("severity").value); $("severity-text").textContent = filter.severity.toFixed(2); refilter(); });
$("scroll").addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
addEventListener("resize", () => { refresh(); });
addEventListener("focus", poll);
$("by").value = data.serve ? data.by : recall("maskprep-by") || data.by;
$("by").addEventListener("change", () => remember("maskprep-by", $("by").value.trim()));

const stored = recall("maskprep-theme");
theme(stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
document.title = data.name + " — maskprep audit";
$("name").textContent = data.name;
if (data.serve) { $("export").textContent = "Download decisions.csv"; $("export").classList.remove("main"); setInterval(poll, 4000); }
const names = make("datalist", { id: "people" }, data.people.slice(0, 5000).map((p) => make("option", { value: p })));
document.body.append(names);
const kept = data.serve ? null : localChanges();
if (kept) { applyChange(kept.added || [], kept.removed || []); if ((kept.added || []).length) say(kept.added.length + " rulings kept in this browser"); } else indexRulings();
sift(); facets(); tab("grid"); refresh();
