// ---------------------------------------------------------------- the grid: only the cards in sight exist

const GAP = 8;
const WISHED = 124; // width of a card, at least
const TEXT = 41; // height of the text below its picture
let columns = 1;
let cellWidth = WISHED;
let rowHeight = WISHED + TEXT + GAP;
let hover = -1;
const nodes = new Map();

function layout() {
  const scroll = $("scroll");
  const width = scroll.clientWidth - GAP;
  columns = Math.max(1, Math.floor(width / (WISHED + GAP)));
  cellWidth = Math.floor(width / columns) - GAP;
  rowHeight = cellWidth + TEXT + GAP;
  setPixels($("sizer"), { height: Math.ceil(shown.length / columns) * rowHeight + GAP });
}
function paint() {
  const scroll = $("scroll");
  const first = Math.max(0, Math.floor(scroll.scrollTop / rowHeight) - 1) * columns;
  const last = (Math.ceil((scroll.scrollTop + scroll.clientHeight) / rowHeight) + 1) * columns;
  const wanted = shown.slice(first, last);
  const keep = new Set(wanted);
  for (const [i, node] of nodes)
    if (!keep.has(i)) (node.remove(), nodes.delete(i));
  wanted.forEach((i, k) => {
    if (!nodes.has(i)) nodes.set(i, $("cards").appendChild(card(i)));
    const n = first + k;
    const [left, top] = [GAP + (n % columns) * (cellWidth + GAP), GAP + Math.floor(n / columns) * rowHeight];
    setPixels(nodes.get(i), { left, top, width: cellWidth, height: rowHeight - GAP });
    dress(nodes.get(i), i);
  });
  $("empty").hidden = shown.length > 0;
}
const isTyping = () => document.activeElement?.matches("input, select");
function card(i) {
  const [top, ...more] = findingsOf[i];
  const why = top ? checkNames[top.check] + (more.length ? "  +" + more.length : "") : classOf[i];
  const onmouseenter = () => {
    hover = i;
    setTimeout(() => hover === i && i !== at && !drawing && !isTyping() && !selection.size && detail(i), 250);
  };
  const onmouseleave = () => {
    if (hover === i) hover = -1;
    setTimeout(() => hover < 0 && detailed !== at && !isTyping() && detail(at), 120);
  };
  const severity = top ? badge(worst[i]) : null;
  const file = data.label[i] >= 0 ? classOf[i] : baseName(data.path[i]);
  return el(
    "div.card",
    { "data-image": data.path[i], onclick: (event) => choose(i, event), onmouseenter, onmouseleave },
    el("div.pic", crop(i), matteShown && data.matte[i] ? thumb(data.matte[i] + ".png") : null, severity),
    el("div.text", el("div.why", why), el("div.file", file)),
  );
}
function choose(i, event) {
  if (event.shiftKey && position.has(at)) {
    const [a, b] = [position.get(at), position.get(i)].sort((x, y) => x - y);
    shown.slice(a, b + 1).forEach((j) => selection.add(j));
  } else if (event.ctrlKey || event.metaKey) toggle(selection, i);
  go(i);
}
function dress(node, i) {
  const text = decisionText(i);
  node.className = ["card", i === at && "at", selection.has(i) && "chosen", text && "done"].filter(Boolean).join(" ");
  const old = node.querySelector(".decided");
  if ((old?.textContent || "") === text) return;
  old?.remove();
  if (text) node.querySelector(".pic").append(el("span.decided" + (text === "dropped" ? ".drop" : ""), text));
}
function reveal() {
  if (!position.has(at)) return;
  const scroll = $("scroll");
  const top = Math.floor(position.get(at) / columns) * rowHeight;
  scroll.scrollTop = clamp(scroll.scrollTop, top + rowHeight + GAP - scroll.clientHeight, top);
}
// The next image that is still to be decided, else the next one.
function neighbour(i) {
  if (!position.has(i)) return null;
  const following = shown.slice(position.get(i) + 1);
  return following.find((j) => !isDecided(j)) ?? following[0] ?? i;
}
function go(i) {
  at = i;
  refresh();
}
function move(step) {
  if (shown.length) go(shown[clamp(position.has(at) ? position.get(at) + step : 0, 0, shown.length - 1)]);
}
