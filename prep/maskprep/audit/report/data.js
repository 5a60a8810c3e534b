"use strict";
// The audit page, in parts that are joined into one script. What comes from the data set is text: it goes in by
// append or setAttribute, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const count = data.path.length;
const LIKELY = 0.5;

// An element: el("div.big", "text", child) or el("a", { href, onclick }, ...). Children that are null are left out.
function el(spec, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  if (children[0]?.constructor === Object)
    for (const [name, value] of Object.entries(children.shift())) {
      if (value === false || value == null) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
  node.append(...children.flat(2).filter((child) => child != null));
  return node;
}

const level = (severity) => (severity > 0.8 ? ".sure" : severity > LIKELY ? ".likely" : "");
const badge = (severity) => el("span.badge" + level(severity), severity.toFixed(2));
const baseName = (path) => path.slice(path.lastIndexOf("/") + 1);
const boxText = (box) => box.map((v) => v.toFixed(1)).join(" ");
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
const descending = (a, b) => b[1] - a[1];

function setPixels(node, lengths) {
  for (const [name, value] of Object.entries(lengths)) node.style[name] = value + "px";
}
function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {} // a private window keeps nothing
}
function recall(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

// A value that is made when it is first asked for.
const once = (make) => {
  let made;
  return () => (made ??= make());
};

// value -> the indices at which it stands
function grouped(values) {
  const groups = new Map();
  values.forEach((value, i) => (groups.has(value) ? groups.get(value).push(i) : groups.set(value, [i])));
  return groups;
}
const tally = (values) => [...grouped(values)].map(([value, members]) => [value, members.length]);

// ---------------------------------------------------------------- what is known of each image

const checkNames = data.checks.map((check) => check.name.replaceAll("_", " "));
const findingsOf = data.path.map(() => []);
for (const [i, check, severity, detail] of data.findings) findingsOf[i].push({ check, severity, detail });
const worst = findingsOf.map((list) => Math.max(0, ...list.map((f) => f.severity)));
const total = findingsOf.map((list) => list.reduce((sum, f) => sum + f.severity, 0));
const personOf = data.person.map((p) => data.people[p] || "");
const membersOf = grouped(personOf);
const byContent = grouped(data.content);
const ordered = [...data.path.keys()].sort((a, b) => worst[b] - worst[a] || total[b] - total[a] || a - b);
const withFindings = ordered.filter((i) => findingsOf[i].length);
const classOf = data.label.map((label) => (label >= 0 ? data.classes[label] : "no label"));
const searchable = once(() =>
  data.path.map((path, i) =>
    [path, personOf[i], ...findingsOf[i].map((f) => data.checks[f.check].name + " " + f.detail)].join("\n").toLowerCase(),
  ),
);
const facesOf = data.faces.map((faces) =>
  faces.map(([number, x0, y0, x1, y1, mark, probability]) => ({ number, box: [x0, y0, x1, y1], mark, probability })),
);
const shownPhoto = (i) => data.width[i] && data.height[i] && !data.error[i];

// Pairs of photos that are alike: the other photo, kind and distance, for both photos of a pair.
const copiesOf = data.path.map(() => []);
for (const [a, b, kind, distance] of data.copies) {
  copiesOf[a].push({ other: b, kind, distance });
  copiesOf[b].push({ other: a, kind, distance });
}

// Class names of an attribute, or of the joint label (""), and what images are labelled with.
const classNames = (name) => (name ? data.attributes[name] : data.classes);
function labelled(name) {
  if (!name) return data.label;
  const limits = data.numbers.includes(name) ? data.limits[name] : null;
  const index = (value) => (limits ? limits.filter((limit) => Number(value) >= limit).length : data.attributes[name].indexOf(value));
  return data.values[name].map((value) => (value === null ? -1 : index(value)));
}

function numbersIn(base64, Kind) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return new Kind(bytes.buffer);
}
const vectors = once(() => numbersIn(data.vectors, Int8Array));
const isMeasured = (i) => data.dimensions > 0 && vectors()[i * data.dimensions] !== -128;

// All measured images, the most alike first, the image itself at the top.
function alike(i) {
  const [all, d] = [vectors(), data.dimensions];
  const own = all.subarray(i * d, i * d + d);
  const far = new Float64Array(count);
  for (let j = 0; j < count; j++) {
    let sum = 0;
    for (let k = 0, at = j * d; k < d; k++) sum += (all[at + k] - own[k]) ** 2;
    far[j] = sum;
  }
  far[i] = -1;
  return [...data.path.keys()].filter(isMeasured).sort((a, b) => far[a] - far[b]);
}

const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");
const photo = (i) => (data.serve ? "photo/" + i : data.root + encoded(data.path[i]));
const thumb = (name) => el("img", { src: "thumbs/" + name, alt: "", decoding: "async", draggable: "false" });
const crop = (i) => (data.thumb[i] ? thumb(data.thumb[i] + ".jpg") : data.error[i] || "no crop");
