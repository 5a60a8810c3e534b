// ---------------------------------------------------------------- keys and buttons

// key, what it does, and the function; the shortcuts without one are read elsewhere
const KEYS = [
  ["a", "accept: it is right as it is", () => decide(targets(), acts.keep)],
  ["d", "drop the photo", () => decide(targets(), acts.drop)],
  ["0 … 9", "choose the face with that number; two digits are typed in a row"],
  ["b", "draw a box (drag on the photo)", toggleDrawing],
  ["l", "change a label, then a number", openLabels],
  ["c", "label one photo after the other, one key for each class", () => (labelling ? stopLabelling() : startLabelling())],
  ["r", "give a reason for the next decision", () => $("reason")?.focus()],
  ["u", "undo", () => (undoable.length ? undo() : say("nothing to undo"))],
  ["← → ↑ ↓", "move; with Shift also choose"],
  ["n", "next that is not decided", () => go(neighbour(at) ?? at)],
  ["x", "choose or unchoose", () => at >= 0 && (toggle(selection, at), refresh())],
  ["p", "choose all photos of this person", () => personOf[at] && select(membersOf.get(personOf[at]))],
  ["Ctrl A", "choose all that are shown"],
  ["s", "show what looks most like this one", () => at >= 0 && isMeasured(at) && showOnly({ like: at })],
  ["f", "full screen", toggleFull],
  ["+", "zoom in; also the wheel, and drag to move", () => zoomBy(1.5)],
  ["-", "zoom out", () => zoomBy(1 / 1.5)],
  ["m", "show what the matte removes", toggleMatte],
  ["Esc", "clear the selection, end labelling or full screen"],
  ["/", "search", () => $("search").focus()],
  ["o", "overview", () => tab("overview")],
  ["g", "findings", () => tab("grid")],
  ["v", "map of all images", () => tab("map")],
  ["e", "export decisions.csv", exportCsv],
  ["t", "dark or light", () => theme(!document.documentElement.classList.contains("dark"))],
  ["?", "keys", help],
];
const shortcuts = Object.fromEntries(KEYS.filter((key) => key[2]).map(([key, , act]) => [key, act]));
Object.assign(shortcuts, {
  Escape: () => {
    if (labelling) return stopLabelling();
    if (full && !drawing) return toggleFull();
    if (drawing) drawing = false;
    else selection.clear();
    refresh();
  },
  Home: () => move(-Infinity),
  End: () => move(Infinity),
  PageDown: () => move(columns * 4),
  PageUp: () => move(-columns * 4),
  ArrowRight: () => move(1),
  ArrowLeft: () => move(-1),
  ArrowDown: () => move(columns),
  ArrowUp: () => move(-columns),
});
shortcuts["="] = shortcuts["+"];
for (let digit = 0; digit < 10; digit++) shortcuts[digit] = () => typeNumber(String(digit));

// The digits of a face's number: it is chosen as soon as no longer number can be meant.
const PAUSE = 700; // milliseconds
let typed = "";
let pause = 0;
function typeNumber(digit) {
  clearTimeout(pause);
  typed += digit;
  const numbers = [...new Set(targets().flatMap((i) => facesOf[i].map((face) => String(face.number))))];
  const longer = numbers.some((number) => number.startsWith(typed) && number !== typed);
  const choose = () => {
    const number = typed;
    typed = "";
    if (numbers.includes(number)) decide(targets(), acts.face(Number(number)));
    else say(`there is no face ${number} here`, true);
  };
  if (longer) pause = setTimeout(choose, PAUSE);
  else choose();
}

function help() {
  const kept = data.serve ? "are written to decisions.csv at once." : "stay in this browser until they are exported.";
  const scope = "Every decision applies to all chosen images, or to the one with the frame.";
  $("help").replaceChildren(
    el("h2", "Keys"),
    el("dl", ...KEYS.map(([key, text]) => [el("dt", el("kbd", key)), el("dd", text)])),
    el("p.soft", `${scope} Ctrl-click and Shift-click choose too. Decisions ${kept}`),
    el("button", { onclick: () => $("help").close() }, "Close"),
  );
  $("help").showModal();
}
function tab(which) {
  for (const name of ["grid", "overview", "map"]) {
    $(name).hidden = which !== name;
    $("tab-" + name).classList.toggle("on", which === name);
  }
  if (which === "overview") return overview();
  if (which === "map") return mapTab();
  layout();
  paint();
}
function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  remember("maskprep-theme", dark ? "dark" : "light");
  drawMap();
}
function refresh() {
  const decided = withFindings.filter(isDecided);
  for (const i of decided) if (position.has(i)) sticky.add(i);
  layout();
  reveal();
  paint();
  detail(at);
  const all = withFindings.length;
  $("progress-bar").style.width = (all ? (100 * decided.length) / all : 100) + "%";
  $("progress-text").textContent = `${decided.length} of ${all} decided`;
  const images = shown.length === 1 ? "1 image" : `${shown.length} images`;
  $("count").textContent = position.has(at) ? `${position.get(at) + 1} of ${images}` : images;
  $("selected").textContent = selection.size ? `${selection.size} chosen` : "";
  $("sampled").textContent = filter.sample ? estimate(filter.sample) : "";
  $("undo").disabled = !undoable.length;
}
function select(images) {
  images.forEach((i) => selection.add(i));
  refresh();
}
const EVERYWHERE = "ogvcetu?";

addEventListener("keydown", (event) => {
  const { key, shiftKey } = event;
  const control = event.ctrlKey || event.metaKey;
  const onGrid = !$("grid").hidden;
  if (document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, select, textarea")) {
    if (key === "Escape") event.target.blur();
    return;
  }
  if (labelling && onGrid && !control && !event.altKey && classKey(key)) return event.preventDefault();
  if (control && key === "a" && onGrid) (event.preventDefault(), select(shown));
  if (control || event.altKey || !(key in shortcuts) || !(onGrid || EVERYWHERE.includes(key))) return;
  event.preventDefault();
  const extend = shiftKey && key.startsWith("Arrow") && at >= 0;
  if (extend) selection.add(at);
  shortcuts[key]();
  if (extend) select([at]);
});
const buttons = { undo: "u", export: "e", theme: "t", "help-button": "?", "tab-grid": "g", "tab-overview": "o", "tab-map": "v", "tab-labelling": "c" };
for (const [id, key] of Object.entries(buttons)) $(id).onclick = shortcuts[key];
$("clear").onclick = () => (resetFilter(), refilter());
$("filters-button").onclick = () => $("filters").classList.toggle("open");
addEventListener("pointerdown", (event) => {
  if (!event.target.closest("#filters, #filters-button")) $("filters").classList.remove("open");
});
$("search").oninput = () => ((lastTyped = performance.now()), (filter.text = $("search").value.trim().toLowerCase()), refilter());
$("severity").oninput = () => ((filter.severity = Number($("severity").value)), refilter());
$("scroll").addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
addEventListener("resize", () => (refresh(), drawMap()));
addEventListener("popstate", readAddress);
addEventListener("focus", poll);
$("by").value = (!data.serve && recall("maskprep-by")) || data.by;
$("by").onchange = () => remember("maskprep-by", $("by").value.trim());

// ---------------------------------------------------------------- start

const stored = recall("maskprep-theme");
theme(stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
document.title = data.name + " — maskprep audit";
$("name").textContent = data.name;
$("people").append(...data.people.slice(0, 5000).map((value) => el("option", { value })));
if (withFindings.length) $("empty").textContent = "Nothing here. Everything is decided, or the filters leave nothing.";
if (data.serve) {
  $("export").textContent = "Download decisions.csv";
  $("export").classList.remove("main");
  setInterval(poll, 4000);
  setDecisions(decisions);
} else restoreLocal();
if (!data.dimensions) $("tab-map").hidden = true;
if (!labelledNames().length && !data.serve) $("tab-labelling").hidden = true;
tab("grid");
readAddress();
loadSaved();
