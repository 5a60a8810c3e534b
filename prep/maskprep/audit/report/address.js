// ---------------------------------------------------------------- the filter in the address, and filters under a name

const FACET_NAMES = { checks: "check", statuses: "status", classes: "class", splits: "split" };
const facetId = (key, value) => (key === "checks" ? data.checks[value].name : value);

// The filter as the fragment of the address. A choice on the map is not part of it.
function filterText() {
  const text = new URLSearchParams();
  for (const key of ["show", "severity", "text", "person", "sample", "unlabelled"])
    if (filter[key] !== UNFILTERED[key]) text.set(key, filter[key]);
  for (const [key, name] of Object.entries(FACET_NAMES))
    for (const value of filter[key]) text.append(name, facetId(key, value));
  if (filter.cell) text.set("cell", JSON.stringify(filter.cell));
  if (filter.like >= 0) text.set("like", data.path[filter.like]);
  return text.toString();
}
// Sets the filter from such a text; what does not fit this data set is left out.
function readFilter(given) {
  const text = new URLSearchParams(given);
  resetFilter();
  if (["open", "decided", "findings", "every"].includes(text.get("show"))) filter.show = text.get("show");
  filter.severity = clamp(Number(text.get("severity")) || UNFILTERED.severity, 0.2, 1);
  filter.text = (text.get("text") || "").toLowerCase();
  filter.person = text.get("person") || "";
  filter.sample = clamp(Math.floor(Number(text.get("sample")) || 0), 0, count);
  if (data.order.includes(text.get("unlabelled"))) filter.unlabelled = text.get("unlabelled");
  const ids = { checks: data.checks.map((check) => check.name) };
  for (const [key, name] of Object.entries(FACET_NAMES))
    for (const id of text.getAll(name)) {
      const value = ids[key] ? ids[key].indexOf(id) : id;
      if (value !== -1) filter[key].add(value);
    }
  filter.cell = readCell(text.get("cell"));
  filter.like = data.path.indexOf(text.get("like"));
  if (filter.like >= 0 && !isMeasured(filter.like)) filter.like = -1;
  $("search").value = filter.text;
  $("severity").value = filter.severity;
}
function readCell(text) {
  try {
    const [name, ...pair] = JSON.parse(text);
    const known = Object.hasOwn(data.predicted, name) && pair.length === 2 && pair.every((k) => classNames(name)[k]);
    return known ? [name, ...pair] : null;
  } catch {
    return null;
  }
}
let lastTyped = -Infinity;
function writeAddress() {
  const text = filterText();
  if (text === location.hash.slice(1)) return;
  const typing = performance.now() - lastTyped < 400; // letters of a search are one step back, not many
  history[typing ? "replaceState" : "pushState"](null, "", text ? "#" + text : location.href.split("#")[0]);
}
// The filter of the address; ``image`` in it is the image at hand, shown even where the filter leaves it out.
function readAddress() {
  const given = location.hash.slice(1);
  readFilter(given);
  refilter(true);
  const wanted = data.path.indexOf(new URLSearchParams(given).get("image"));
  if (wanted < 0) return;
  if (!position.has(wanted)) showOnly({});
  go(wanted);
}

// ---------------------------------------------------------------- saved filters

const SAVED = "maskprep-filters-" + data.id;
let saved = {};

async function loadSaved() {
  try {
    saved = data.serve ? (await exchange("filters")).filters : JSON.parse(recall(SAVED)) || {};
  } catch (error) {
    saved = {};
    if (data.serve) say(error.message, true);
  }
  savedFilters();
}
async function save(name, text) {
  try {
    if (data.serve) saved = (await exchange("filters", { name, filter: text })).filters;
    else {
      const { [name]: _, ...others } = saved;
      saved = text ? { ...others, [name]: text } : others;
      remember(SAVED, JSON.stringify(saved));
    }
    say(text ? `filter '${name}' saved` : `filter '${name}' deleted`);
  } catch (error) {
    say("not saved: " + error.message, true);
  }
  savedFilters();
}
function savedFilters() {
  const use = (text) => () => (readFilter(text), tab("grid"), refilter());
  const rows = Object.keys(saved).sort().map((name) =>
    el(
      "div.saved",
      el("button.option", { "data-saved": name, title: "use this filter", onclick: use(saved[name]) }, el("span", name), el("span")),
      el("button.forget", { title: "delete this filter", "aria-label": `delete ${name}`, onclick: () => save(name, "") }, "×"),
    ),
  );
  const input = el("input", { id: "filter-name", placeholder: "name", size: 10, maxlength: 80, autocomplete: "off", spellcheck: "false" });
  const add = () => input.value.trim() && save(input.value.trim(), filterText() || "show=open");
  input.addEventListener("keydown", (event) => event.key === "Enter" && add());
  const adding = el("div.adding", input, el("button", { id: "save-filter", title: "keep this filter under a name", onclick: add }, "Save filter"));
  $("saved-filters").replaceChildren(...(rows.length ? [el("h3", "saved filters")] : []), ...rows, adding);
}
