// ---------------------------------------------------------------- decisions: kept in this browser, or written by the server

const COLUMNS = ["content", "image", "verdict", "value", "expected", "reason", "by", "when"];
const KEEP = "maskprep-rulings-" + data.id;
let decisions = [...data.decisions];
let decisionsOf = [];
const undoable = [];
const stateOf = new Map(data.states.map(([row, state, why]) => [rowKey(row), { state, why }]));

function rowKey(row) {
  return COLUMNS.map((column) => row[column] || "").join("\u001f");
}
function topic(row) {
  const about = { relabel: "label " + row.value.split("=")[0].trim(), allow_duplicate: "duplicate " + row.value };
  return [row.content, row.image, about[row.verdict] || "face"].join("\u001f");
}
function holders(row) {
  const all = byContent.get(row.content) || [];
  const own = all.filter((i) => data.path[i] === row.image);
  return own.length ? own : all;
}
function setDecisions(rows) {
  decisions = rows;
  decisionsOf = data.path.map(() => []);
  for (const row of rows) for (const i of holders(row)) decisionsOf[i].push(row);
}
function liveDecisions(i) {
  return decisionsOf[i].filter(
    (row) => row.verdict !== "allow_duplicate" && stateOf.get(rowKey(row))?.state !== "stale",
  );
}
const isDecided = (i) => liveDecisions(i).length > 0;

function without(rows, others) {
  const keys = new Set(others.map(rowKey));
  return rows.filter((row) => !keys.has(rowKey(row)));
}
function applyChange(add, remove) {
  const kept = without(decisions, remove);
  setDecisions([...kept, ...without(add, kept)]);
}
function restoreLocal() {
  let kept = null;
  try {
    kept = JSON.parse(recall(KEEP));
  } catch {} // not ours
  applyChange(kept?.added || [], kept?.removed || []);
  if (kept?.added?.length) say(kept.added.length + " decisions kept in this browser");
}

async function exchange(change) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("decisions", change && { method: "POST", headers, body: JSON.stringify(change) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body.decisions;
}
let waiting = Promise.resolve();
function commit(add, remove) {
  applyChange(add, remove);
  if (!data.serve) {
    const change = { added: without(decisions, data.decisions), removed: without(data.decisions, decisions) };
    remember(KEEP, JSON.stringify(change));
    say("kept in this browser");
    return;
  }
  say("saving …");
  waiting = waiting.then(async () => {
    try {
      setDecisions(await exchange({ add, remove }));
      refresh();
      say("saved");
    } catch (error) {
      applyChange(remove, add); // what is shown is what is kept
      refresh();
      say("not saved: " + error.message, true);
    }
  });
}
// Another tab or person may have decided.
async function poll() {
  if (!data.serve || document.hidden) return;
  await waiting;
  try {
    const now = await exchange();
    if (now.map(rowKey).join() === decisions.map(rowKey).join()) return;
    setDecisions(now);
    refresh();
    say("updated by another tab");
  } catch {
    say("the server is gone: start maskprep review again", true);
  }
}
function say(text, bad = false) {
  $("saved").textContent = text;
  $("saved").className = bad ? "bad" : "";
}

// ---------------------------------------------------------------- deciding

function rowFor(i, verdict, value, expected) {
  const [by, when] = [$("by").value.trim(), new Date().toISOString().slice(0, 19) + "Z"];
  return { content: data.content[i], image: data.path[i], verdict, value, expected, reason: "", by, when };
}
const expectedBox = (i) => (data.auto[i] ? boxText(data.auto[i]) : "");

// What can be decided: image -> row, null where it cannot be.
const acts = {
  keep: (i) => data.auto[i] && rowFor(i, "keep", "", expectedBox(i)),
  drop: (i) => rowFor(i, "drop", "", expectedBox(i)),
  face: (k) => (i) => {
    const face = facesOf[i][k];
    return face && rowFor(i, "face", String(face.number), boxText(face.box));
  },
  box: (box) => (i) => rowFor(i, "box", boxText(box), expectedBox(i)),
  label: (name, value) => (i) => {
    const old = data.values[name][i];
    return old === value ? null : rowFor(i, "relabel", `${name}=${value}`, old === null ? "" : `${name}=${old}`);
  },
};
function decide(images, act) {
  const rows = images.map((i) => [i, act(i)]);
  const add = rows.map(([, row]) => row).filter(Boolean);
  const remove = rows.flatMap(([i, row]) => (row ? replacedBy(i, row) : []));
  if (add.length) {
    undoable.push({ add, remove, at });
    commit(add, remove);
    if (images.length > 1) selection.clear();
    else if (add[0].verdict !== "relabel") at = neighbour(images[0]) ?? at;
  }
  refresh();
  const refused = images.length - add.length;
  if (refused) say(refused === 1 ? "that cannot be decided here" : refused + " could not be decided so", true);
}
// Earlier decisions on the same topic, also under another name of the same content.
function replacedBy(i, row) {
  const same = (other) => topic({ ...other, image: row.image }) === topic(row);
  return decisions.filter((other) => same(other) && (other.image === row.image || holders(other).includes(i)));
}
function undo() {
  const last = undoable.pop();
  commit(last.remove, last.add);
  at = last.at;
  refresh();
}
function decisionText(i) {
  const words = { keep: "accepted", drop: "dropped", face: "other face", box: "own box" };
  return liveDecisions(i)
    .map((row) => words[row.verdict] || row.value.replace("=", ": "))
    .join(", ");
}

// ---------------------------------------------------------------- decisions.csv

// A cell that no spreadsheet computes; the rule of maskprep.base.csv_files.
function guard(text) {
  const risky = /^[=+\-@\t\r]/.test(text) && !/^-?[\d.]+([ ,]+-?[\d.]+)*$/.test(text);
  return risky || text.startsWith("'") ? "'" + text : text;
}
function csv() {
  const cell = (text) => (/[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text);
  const rows = decisions.map((row) => COLUMNS.map((column) => guard(row[column] || "")));
  return [COLUMNS, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
}
function exportCsv() {
  const href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  el("a", { href, download: "decisions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10000);
  say(`exported ${decisions.length} decisions`);
}
