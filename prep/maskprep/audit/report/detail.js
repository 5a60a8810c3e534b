// ---------------------------------------------------------------- the image at hand: photo, actions, findings, person

let detailed = -1;
const targets = () => (selection.size ? [...selection] : at >= 0 ? [at] : []);

function detail(i) {
  const typing = document.activeElement?.id === "reason" && i === detailed;
  detailed = i;
  if (i < 0) return $("detail").replaceChildren();
  const many = selection.size > 1;
  const head = [el("h2", many ? `${selection.size} images chosen; this is ` : "", data.path[i]), el("div.facts", facts(i))];
  if (labelling) $("detail").replaceChildren(...head, stage(i), ...labellingBar(i));
  else $("detail").replaceChildren(...head, stage(i), actions(i, many), reasonRow(), ...notes(i), ...copies(i), ...strip(i));
  if (typing) $("reason").focus();
  preload(i);
}
function facts(i) {
  const numbers = data.numbers.map((name) => data.values[name][i] !== null && `${name} ${data.values[name][i]}`);
  const size = data.width[i] ? `${data.width[i]}×${data.height[i]}` : "";
  const predicted = data.predicted[""]?.[i] >= 0 && "predicted " + data.classes[data.predicted[""][i]];
  const known = [personOf[i] && "person " + personOf[i], data.split[i], data.status[i], classOf[i], ...numbers, predicted, size];
  return known.filter(Boolean).join(" · ");
}
function actions(i, many) {
  const action = (text, key, act, title, disabled = false) =>
    el("button", { title, disabled, "data-act": key[0], onclick: act }, text, el("kbd", key));
  const numbers = facesOf[i].map((face) => face.number);
  const first = () => decide(targets(), acts.face(numbers[0]));
  const choose = "Choose a face: click its box, or type its number";
  const accept = openCopies(i).length ? "It is right as it is, and its copies may stay" : "It is right as it is";
  return el(
    "div.actions",
    action("Accept", "a", shortcuts.a, accept, !many && !data.auto[i] && !openCopies(i).length),
    action("Drop", "d", shortcuts.d, "Do not use this photo"),
    action("Face", numbers.length === 1 ? String(numbers[0]) : "0–9", first, choose, !numbers.length),
    action("Box", "b", toggleDrawing, "Drag a box on the photo", many || !shownPhoto(i)),
    action("Label", "l", openLabels, "Change a label", !data.order.length),
    action("Similar", "s", shortcuts.s, "The images that look most like this one", !isMeasured(i)),
  );
}
function reasonRow() {
  const attributes = { id: "reason", value: reasonText, list: "reasons", maxlength: 500, autocomplete: "off" };
  const input = el("input", { ...attributes, placeholder: "reason of the next decision (r)", oninput: () => (reasonText = input.value) });
  const known = [...new Set(decisions.map((row) => row.reason).filter(Boolean))].slice(-30);
  return el("div.reason", input, el("datalist", { id: "reasons" }, known.map((value) => el("option", { value }))));
}
function notes(i) {
  return [...decisionsOf[i].map(decisionNote), el("ul.reasons", findingsOf[i].map(finding))];
}
function decisionNote(row) {
  const { state, why } = stateOf.get(rowKey(row)) || {};
  const by = row.by && ` by ${row.by}`;
  const text = `Decided: ${row.verdict.replace("_", " ")} ${row.value}${by}${why ? ` — stale: ${why}` : ""}`;
  const onchange = (event) => giveReason(row, event.target.value.trim());
  const reason = el("input.why", { value: row.reason, placeholder: "no reason given", title: "reason", maxlength: 500, onchange });
  return el("div.state" + (state === "stale" ? ".stale" : ""), el("div", text), reason);
}
function finding({ check, severity, detail }) {
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
