// ---------------------------------------------------------------- decisions: kept in this browser, or written by the server

const COLUMNS = ["content", "image", "verdict", "value", "expected", "reason", "by", "when"];
const KEEP = "maskprep-rulings-" + data.id;
let decisions = [...data.decisions];
let decisionsOf = [];
let allowed = new Set(); // pairs of contents that may stay
let reasonText = ""; // for the next decision
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
  allowed = new Set(rows.filter((row) => row.verdict === "allow_duplicate").map((row) => pairKey(row.content, row.value)));
}
const pairKey = (...contents) => contents.sort().join(" ");
const isAllowed = (i, j) => allowed.has(pairKey(data.content[i], data.content[j]));
const openCopies = (i) => copiesOf[i].map((copy) => copy.other).filter((j) => !isAllowed(i, j));
const onlyCopies = (i) => copiesOf[i].length > 0 && findingsOf[i].every((f) => data.checks[f.check].name === "duplicate");
function liveDecisions(i) {
  return decisionsOf[i].filter(
    (row) => row.verdict !== "allow_duplicate" && stateOf.get(rowKey(row))?.state !== "stale",
  );
}
const areCopiesAllowed = (i) => onlyCopies(i) && !openCopies(i).length;
const isDecided = (i) => liveDecisions(i).length > 0 || areCopiesAllowed(i);
// What an image is labelled with, its decision included.
function labelNow(i, name) {
  const row = liveDecisions(i).findLast((row) => row.verdict === "relabel" && row.value.split("=")[0].trim() === name);
  return row ? row.value.slice(row.value.indexOf("=") + 1).trim() : data.values[name][i];
}

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

// Read what the server keeps under an address, or change it.
async function exchange(address, change) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(address, change && { method: "POST", headers, body: JSON.stringify(change) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
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
      setDecisions((await exchange("decisions", { add, remove })).decisions);
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
    const now = (await exchange("decisions")).decisions;
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
  const reason = [filter.sample ? SAMPLED : "", reasonText.trim()].filter(Boolean).join(": ");
  return { content: data.content[i], image: data.path[i], verdict, value, expected, reason, by, when };
}
const expectedBox = (i) => (data.auto[i] ? boxText(data.auto[i]) : "");

// What can be decided: image -> one row or several, null where it cannot be.
const acts = {
  keep: (i) => {
    const pairs = openCopies(i).map((j) => acts.allow(j)(i));
    const pairsOnly = pairs.length > 0 && onlyCopies(i) && !liveDecisions(i).length;
    return pairsOnly || !data.auto[i] ? pairs : [rowFor(i, "keep", "", expectedBox(i)), ...pairs];
  },
  allow: (j) => (i) => rowFor(i, "allow_duplicate", data.content[j], ""),
  drop: (i) => rowFor(i, "drop", "", expectedBox(i)),
  face: (number) => (i) => {
    const face = facesOf[i].find((each) => each.number === number);
    return face && rowFor(i, "face", String(face.number), boxText(face.box));
  },
  box: (box) => (i) => rowFor(i, "box", boxText(box), expectedBox(i)),
  label: (name, value) => (i) => {
    const old = data.values[name][i];
    return rowFor(i, "relabel", `${name}=${value}`, old === null ? "" : `${name}=${old}`);
  },
};
function decide(images, act) {
  const rows = images.map((i) => [i, [act(i)].flat().filter(Boolean)]);
  const add = rows.flatMap(([, made]) => made);
  const remove = rows.flatMap(([i, made]) => made.flatMap((row) => replacedBy(i, row)));
  if (add.length) {
    undoable.push({ add, remove, at });
    reasonText = "";
    commit(add, remove);
    if (images.length > 1) selection.clear();
    else if (add[0].verdict !== "relabel") at = neighbour(images[0]) ?? at;
  }
  refresh();
  const refused = rows.filter(([, made]) => !made.length).length;
  if (refused) say(refused === 1 ? "that cannot be decided here" : refused + " could not be decided so", true);
}
function giveReason(row, reason) {
  const add = [{ ...row, reason, when: new Date().toISOString().slice(0, 19) + "Z" }];
  undoable.push({ add, remove: [row], at });
  commit(add, [row]);
  refresh();
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
  const label = ({ value, expected }) => value.replace("=", ": ") + (value === expected ? " (confirmed)" : "");
  const texts = liveDecisions(i).map((row) => words[row.verdict] || label(row));
  return (areCopiesAllowed(i) ? [...texts, "pair allowed"] : texts).join(", ");
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
