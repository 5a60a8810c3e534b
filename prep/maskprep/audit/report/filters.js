// ---------------------------------------------------------------- filters: which images are shown, in which order

const FACETS = { checks: null, statuses: data.status, classes: classOf, splits: data.split };
const filter = Object.fromEntries(Object.keys(FACETS).map((key) => [key, new Set()]));
let shown = [];
let position = new Map();
let at = -1; // the image with the frame
const selection = new Set();
const sticky = new Set(); // decided just now: they stay in sight until the filter changes

// cell: of a confusion matrix, [attribute, label, prediction]; like: an image, -1 for none; only: a set of images;
// sample: size of the random sample; unlabelled: the attribute that images are to lack
const UNFILTERED = { text: "", show: "open", severity: 0.2, person: "", cell: null, like: -1, only: null, sample: 0, unlabelled: "" };

function resetFilter() {
  Object.assign(filter, UNFILTERED);
  for (const key of Object.keys(FACETS)) filter[key].clear();
  $("search").value = "";
  $("severity").value = filter.severity;
}
function severeFindings(i) {
  return findingsOf[i].filter((f) => f.severity >= filter.severity - 1e-9);
}
// Whether an image passes all filters, or all but one facet.
function passes(i, but = "") {
  if (filter.text && !searchable()[i].includes(filter.text)) return false;
  if (filter.person && personOf[i] !== filter.person) return false;
  for (const [key, values] of Object.entries(FACETS))
    if (values && key !== but && filter[key].size && !filter[key].has(values[i])) return false;
  if (filter.unlabelled && labelNow(i, filter.unlabelled) !== null) return false;
  if (filter.cell && !inCell(i, filter.cell)) return false;
  if (filter.show === "open" && isDecided(i) && !sticky.has(i)) return false;
  if (filter.show === "decided" && !isDecided(i)) return false;
  if (filter.show === "every" || (filter.show === "decided" && !filter.checks.size)) return true;
  return severeFindings(i).some((f) => but === "checks" || !filter.checks.size || filter.checks.has(f.check));
}
const labelsFor = Object.fromEntries(["", ...data.order].map((name) => [name, once(() => labelled(name))]));
const inCell = (i, [name, label, predicted]) => labelsFor[name]()[i] === label && data.predicted[name][i] === predicted;

// The images that the filter chooses from, in their order.
function pool() {
  if (filter.sample) return sampled(filter.sample);
  if (filter.like >= 0) return alike(filter.like);
  if (filter.only) return ordered.filter((i) => filter.only.has(i));
  return filter.show === "every" || filter.show === "decided" ? ordered : withFindings;
}
// What narrows the images besides the facets: text and how to remove it.
function narrowings() {
  const { cell, like, only, sample, unlabelled } = filter;
  const classOf = (k) => classNames(cell[0])[k];
  return [
    cell && [`labelled ${classOf(cell[1])}, predicted ${classOf(cell[2])}`, "cell"],
    like >= 0 && ["most like " + baseName(data.path[like]), "like"],
    only && [`${only.size} chosen on the map`, "only"],
    sample && ["random sample", "sample"],
    unlabelled && ["without " + unlabelled, "unlabelled"],
  ].filter(Boolean);
}
function refilter(keepAddress = false) {
  sticky.clear();
  selection.clear();
  shown = pool().filter((i) => passes(i));
  if (filter.checks.size && filter.like < 0 && !filter.sample) {
    const chosen = (i) => findingsOf[i].filter((f) => filter.checks.has(f.check)).map((f) => f.severity);
    const severity = new Map(shown.map((i) => [i, Math.max(0, ...chosen(i))]));
    shown.sort((a, b) => severity.get(b) - severity.get(a) || worst[b] - worst[a] || a - b);
  }
  position = new Map(shown.map((i, n) => [i, n]));
  at = shown.length ? shown[0] : -1;
  $("scroll").scrollTop = 0;
  $("severity-text").textContent = filter.severity.toFixed(2);
  if (!keepAddress) writeAddress();
  facets();
  refresh();
}
function showOnly(narrowing) {
  resetFilter();
  Object.assign(filter, { show: "every" }, narrowing);
  tab("grid");
  refilter();
}
function toggle(set, value) {
  if (!set.delete(value)) set.add(value);
}

function facet(title, key, entries, option = (value) => ({ name: value, id: value })) {
  const live = entries.filter(([value, n]) => n || filter[key].has(value));
  if (!live.length || (live.length < 2 && !filter[key].size && key !== "checks")) return null;
  const buttons = live.map(([value, n]) => {
    const { name, id, about } = option(value);
    const on = filter[key].has(value);
    const onclick = () => (toggle(filter[key], value), refilter());
    const attributes = { title: about, "aria-pressed": String(on), "data-value": id, onclick };
    return el("button.option" + (on ? ".on" : ""), attributes, el("span", name), el("span", String(n)));
  });
  return el("div.facet", { "data-facet": key }, el("h3", title), buttons);
}
function facets() {
  const among = (key) => pool().filter((i) => passes(i, key));
  const counts = (key) => tally(among(key).map((i) => FACETS[key][i]));
  const perCheck = new Map(tally(among("checks").flatMap(severeFindings).map((f) => f.check)));
  const option = (k) => ({ name: checkNames[k], id: data.checks[k].name, about: data.checks[k].about });
  const entries = data.checks.map((check, k) => [k, perCheck.get(k) || 0]).sort(descending);
  const ofKind = (kind) => entries.filter(([k]) => data.checks[k].kind === kind);
  const onchange = (event) => ((filter.person = event.target.value.trim()), refilter());
  const person = { id: "person", list: "people", placeholder: "name", value: filter.person, autocomplete: "off", spellcheck: "false" };
  const parts = [
    ...data.kinds.map((kind) => facet(kind, "checks", ofKind(kind), option)),
    facet("status", "statuses", counts("statuses").sort(descending)),
    facet("split", "splits", counts("splits").sort()),
    data.people.length > 0 && el("div.facet", el("h3", "person"), el("input", { ...person, onchange })),
    facet("class", "classes", counts("classes").sort(descending).slice(0, 60)),
  ];
  $("facets").replaceChildren(...parts.filter(Boolean));
  const undo = (key) => () => ((filter[key] = UNFILTERED[key]), refilter());
  const chip = ([text, key]) => el("button.chip", { title: "remove this filter", "data-narrowing": key, onclick: undo(key) }, text + " ×");
  $("narrowed").replaceChildren(...narrowings().map(chip));
  const choices = { open: "open", decided: "decided", findings: "both", every: "all" };
  const choice = ([key, text]) => {
    const onclick = () => ((filter.show = key), refilter());
    return el("button" + (filter.show === key ? ".on" : ""), { "data-show": key, onclick }, text);
  };
  $("show").replaceChildren(...Object.entries(choices).map(choice));
}
