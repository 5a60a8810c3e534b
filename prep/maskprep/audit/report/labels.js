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

// ---------------------------------------------------------------- labelling: one key for each class, then the next photo

const CLASS_KEYS = "1234567890qwyizjk"; // the letters are free of other meanings
let labelling = null; // the attribute that is labelled

const labelledNames = () => data.order.filter((name) => !data.numbers.includes(name));

function startLabelling(name = labelledNames()[0]) {
  if (!name) return say("There are no classes to label with. Name them: maskprep review PHOTOS --classes mask=worn,none", true);
  labelling = name;
  document.body.classList.add("labelling");
  tab("grid");
  const missing = ordered.some((i) => labelNow(i, name) === null);
  if (missing && !filter.unlabelled && !filter.only && !filter.sample && filter.like < 0) showOnly({ unlabelled: name });
  else if (filter.unlabelled) showOnly({ unlabelled: name });
  else refresh();
}
function stopLabelling() {
  labelling = null;
  document.body.classList.remove("labelling");
  refresh();
}
function labellingBar(i) {
  const [name, now] = [labelling, labelNow(i, labelling)];
  const predicted = data.predicted[name]?.[i] ?? -1;
  const classes = data.attributes[name].map((value, k) => {
    const key = CLASS_KEYS[k];
    const spec = "button" + (value === now ? ".on" : "");
    const guess = k === predicted ? el("span.soft", " predicted") : null;
    return el(spec, { "data-class": value, onclick: () => giveClass(value) }, value, guess, key ? el("kbd", key) : null);
  });
  const names = labelledNames().map((each) =>
    el("button" + (each === name ? ".on" : ""), { "data-attribute": each, onclick: () => startLabelling(each) }, each),
  );
  const left = shown.filter((j) => labelNow(j, name) === null).length;
  const about = `${shown.length - left} of ${shown.length} have a label`;
  return [
    el("div.classes", classes),
    el(
      "div.actions",
      ...(names.length > 1 ? names : []),
      el("span.soft", about),
      el("span.space"),
      el("button", { onclick: () => move(-1) }, "Back", el("kbd", "←")),
      el("button", { onclick: () => move(1) }, "Skip", el("kbd", "→")),
      el("button", { onclick: shortcuts.d }, "Drop", el("kbd", "d")),
      el("button", { onclick: stopLabelling, "data-act": "stop" }, "Stop", el("kbd", "Esc")),
    ),
  ];
}
function giveClass(value) {
  if (at < 0) return;
  const i = at;
  decide([i], acts.label(labelling, value));
  const following = shown.slice(position.get(i) + 1);
  const next = following.find((j) => labelNow(j, labelling) === null) ?? following[0];
  if (next === undefined) say("that was the last one");
  else go(next);
}
// Whether the key was one of a class.
function classKey(key) {
  const value = data.attributes[labelling][CLASS_KEYS.indexOf(key)];
  if (value === undefined || !CLASS_KEYS.includes(key)) return false;
  giveClass(value);
  return true;
}
