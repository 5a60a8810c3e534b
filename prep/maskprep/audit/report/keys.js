// ---------------------------------------------------------------- keys and buttons

// key, what it does, and the function; the shortcuts without one are read elsewhere
const KEYS = [
  ["a", "accept: it is right as it is", () => decide(targets(), acts.keep)],
  ["d", "drop the photo", () => decide(targets(), acts.drop)],
  ["1 … 9", "choose that face"],
  ["b", "draw a box (drag on the photo)", toggleDrawing],
  ["l", "change a label, then a number", openLabels],
  ["u", "undo", () => (undoable.length ? undo() : say("nothing to undo"))],
  ["← → ↑ ↓", "move; with Shift also choose"],
  ["n", "next that is not decided", () => go(neighbour(at) ?? at)],
  ["x", "choose or unchoose", () => at >= 0 && (toggle(selection, at), refresh())],
  ["p", "choose all photos of this person", () => personOf[at] && select(membersOf.get(personOf[at]))],
  ["Ctrl A", "choose all that are shown"],
  ["Esc", "let go of the choice"],
  ["/", "search", () => $("search").focus()],
  ["o", "overview", () => tab("overview")],
  ["g", "findings", () => tab("grid")],
  ["e", "export decisions.csv", exportCsv],
  ["t", "dark or light", () => theme(!document.documentElement.classList.contains("dark"))],
  ["?", "keys", help],
];
const shortcuts = Object.fromEntries(KEYS.filter((key) => key[2]).map(([key, , act]) => [key, act]));
Object.assign(shortcuts, {
  Escape: () => {
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
for (let k = 1; k < 10; k++) shortcuts[k] = () => decide(targets(), acts.face(k - 1));

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
  for (const name of ["grid", "overview"]) {
    $(name).hidden = which !== name;
    $("tab-" + name).classList.toggle("on", which === name);
  }
  if (which === "overview") return overview();
  layout();
  paint();
}
function theme(dark) {
  document.documentElement.classList.toggle("dark", dark);
  remember("maskprep-theme", dark ? "dark" : "light");
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
  $("count").textContent = `${shown.length} images` + (position.has(at) ? `, at ${position.get(at) + 1}` : "");
  $("selected").textContent = selection.size ? `${selection.size} chosen` : "";
  $("undo").disabled = !undoable.length;
}
function select(images) {
  images.forEach((i) => selection.add(i));
  refresh();
}
const EVERYWHERE = "ogetu?";

addEventListener("keydown", (event) => {
  const { key, shiftKey } = event;
  const control = event.ctrlKey || event.metaKey;
  const onGrid = !$("grid").hidden;
  if (document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, select, textarea")) {
    if (key === "Escape") event.target.blur();
    return;
  }
  if (control && key === "a" && onGrid) (event.preventDefault(), select(shown));
  if (control || event.altKey || !(key in shortcuts) || !(onGrid || EVERYWHERE.includes(key))) return;
  event.preventDefault();
  const extend = shiftKey && key.startsWith("Arrow") && at >= 0;
  if (extend) selection.add(at);
  shortcuts[key]();
  if (extend) select([at]);
});
const buttons = { undo: "u", export: "e", theme: "t", "help-button": "?", "tab-grid": "g", "tab-overview": "o" };
for (const [id, key] of Object.entries(buttons)) $(id).onclick = shortcuts[key];
$("clear").onclick = () => (resetFilter(), refilter());
$("search").oninput = () => ((filter.text = $("search").value.trim().toLowerCase()), refilter());
$("severity").oninput = () => ((filter.severity = Number($("severity").value)), refilter());
$("scroll").addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
addEventListener("resize", refresh);
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
resetFilter();
tab("grid");
refilter();
