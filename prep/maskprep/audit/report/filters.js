// ---------------------------------------------------------------- filters: which images are shown, in which order

const FACETS = { checks: null, statuses: data.status, classes: classOf, splits: data.split };
const filter = Object.fromEntries(Object.keys(FACETS).map((key) => [key, new Set()]));
let shown = [];
let position = new Map();
let at = -1; // the image with the frame
const selection = new Set();
const sticky = new Set(); // decided just now: they stay in sight until the filter changes

function resetFilter() {
  Object.assign(filter, { text: "", show: "open", severity: 0.2, person: "" });
  for (const key of Object.keys(FACETS)) filter[key].clear();
  $("search").value = "";
  $("severity").value = filter.severity;
}
function severeFindings(i) {
  return findingsOf[i].filter((f) => f.severity >= filter.severity - 1e-9);
}
// Whether an image passes all filters, or all but one facet.
function passes(i, but = "") {
  if (filter.text && !searchable[i].includes(filter.text)) return false;
  if (filter.person && personOf[i] !== filter.person) return false;
  for (const [key, values] of Object.entries(FACETS))
    if (values && key !== but && filter[key].size && !filter[key].has(values[i])) return false;
  if (filter.show === "open" && isDecided(i) && !sticky.has(i)) return false;
  if (filter.show === "decided" && !isDecided(i)) return false;
  if (filter.show === "every" || (filter.show === "decided" && !filter.checks.size)) return true;
  return severeFindings(i).some((f) => but === "checks" || !filter.checks.size || filter.checks.has(f.check));
}
function pool() {
  return filter.show === "every" || filter.show === "decided" ? ordered : withFindings;
}
function refilter() {
  sticky.clear();
  selection.clear();
  shown = pool().filter((i) => passes(i));
  if (filter.checks.size) {
    const chosen = (i) => findingsOf[i].filter((f) => filter.checks.has(f.check)).map((f) => f.severity);
    const severity = new Map(shown.map((i) => [i, Math.max(0, ...chosen(i))]));
    shown.sort((a, b) => severity.get(b) - severity.get(a) || worst[b] - worst[a] || a - b);
  }
  position = new Map(shown.map((i, n) => [i, n]));
  at = shown.length ? shown[0] : -1;
  $("scroll").scrollTop = 0;
  $("severity-text").textContent = filter.severity.toFixed(2);
  facets();
  refresh();
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
  const choices = { open: "open", decided: "decided", findings: "both", every: "all" };
  const choice = ([key, text]) => {
    const onclick = () => ((filter.show = key), refilter());
    return el("button" + (filter.show === key ? ".on" : ""), { "data-show": key, onclick }, text);
  };
  $("show").replaceChildren(...Object.entries(choices).map(choice));
}
