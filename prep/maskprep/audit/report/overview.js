// ---------------------------------------------------------------- overview: counts, each a way into the grid

function line({ name, n, likely = 0, title, onclick }, largest) {
  const meter = el("span.meter", el("i.likely"), el("i"));
  meter.children[0].style.width = (100 * likely) / largest + "%";
  meter.children[1].style.width = (100 * (n - likely)) / largest + "%";
  const spec = (onclick ? "button" : "div") + ".line";
  const number = el("span", likely ? `${n} (${likely})` : String(n));
  return el(spec, { title, onclick }, el("span", name), meter, number);
}
function panel(title, entries, about) {
  const largest = Math.max(1, ...entries.map((entry) => entry.n));
  const lines = entries.map((entry) => line(entry, largest));
  return el("section.panel", el("h2", title), about ? el("p.about", about) : null, lines);
}

// Rows are labels, columns predictions; shading is the share of the row.
let matrixOf = null;
function matrixPanel() {
  const names = Object.keys(data.predicted);
  if (!names.length) return null;
  const title = (name) => name || "all together";
  matrixOf = names.includes(matrixOf) ? matrixOf : names[0];
  const [labels, predicted, classes] = [labelsFor[matrixOf](), data.predicted[matrixOf], classNames(matrixOf)];
  const counts = classes.map(() => classes.map(() => 0));
  data.path.forEach((_, i) => labels[i] >= 0 && predicted[i] >= 0 && (counts[labels[i]][predicted[i]] += 1));
  const used = classes.map((_, k) => k).filter((k) => counts.some((row, j) => row[k] || counts[k][j]));
  const cell = (j, k) => {
    const [n, all] = [counts[j][k], counts[j].reduce((sum, value) => sum + value, 0)];
    const say = `labelled ${classes[j]}, predicted ${classes[k]}: ${n} of ${all}`;
    const button = el("button", { title: say, disabled: !n, "data-cell": `${j},${k}`, onclick: () => showOnly({ cell: [matrixOf, j, k] }) }, String(n));
    button.style.setProperty("--share", all ? n / all : 0);
    return el("td" + (j === k ? ".right" : ""), button);
  };
  const rows = used.map((j) => el("tr", el("th", { title: classes[j] }, classes[j]), used.map((k) => cell(j, k))));
  const head = el("tr", el("th"), used.map((k) => el("th", { title: classes[k] }, el("span", classes[k]))));
  const pick = (name) => () => ((matrixOf = name), overview());
  const buttons = names.map((name) => el("button" + (name === matrixOf ? ".on" : ""), { "data-matrix": name, onclick: pick(name) }, title(name)));
  const about = "Rows are labels, columns what runs that did not know the person predict; click a number to see its images.";
  const table = el("div.matrix" + (used.length > 8 ? ".many" : ""), el("table", el("thead", head), el("tbody", rows)));
  return el("section.panel.wide", el("h2", "Confusion matrix"), el("p.about", about), el("div.row.left", buttons), table);
}
function overview() {
  const filtered = (key, value) => () => {
    resetFilter();
    filter[key].add(value);
    filter.show = key === "checks" ? "open" : "every";
    tab("grid");
    refilter();
  };
  const checks = data.checks.map(({ about, not_run }, k) => {
    const severities = data.findings.filter(([, check]) => check === k).map(([, , severity]) => severity);
    const likely = severities.filter((severity) => severity > LIKELY).length;
    return { name: checkNames[k], n: severities.length, likely, title: about, not_run, onclick: filtered("checks", k) };
  });
  const listed = checks.filter((entry) => entry.n).sort((a, b) => b.likely - a.likely || b.n - a.n);
  const silent = checks.filter((entry) => !entry.n && !entry.not_run).map((entry) => entry.name);
  const simple = (key) =>
    tally(FACETS[key])
      .sort(descending)
      .slice(0, 40)
      .map(([name, n]) => ({ name, n, onclick: filtered(key, name) }));
  const bins = [...Array(8).keys()].reverse().map((k) => {
    const inside = withFindings.filter((i) => clamp(Math.floor((worst[i] - 0.2) * 10 + 1e-9), 0, 7) === k);
    return { name: `${(0.2 + k / 10).toFixed(1)} – ${(0.3 + k / 10).toFixed(1)}`, n: inside.length };
  });
  const faces = tally(data.faces.map((list) => list.length))
    .sort((a, b) => a[0] - b[0])
    .map(([k, n]) => ({ name: k === 1 ? "1 face" : k + " faces", n }));
  const notRun = [...grouped(data.checks.map((check) => check.not_run))]
    .filter(([why]) => why)
    .map(([why, list]) => [why, list.map((k) => checkNames[k]).join(", ")]);
  const likely = withFindings.filter((i) => worst[i] > LIKELY).length;
  const headline = `${count} images, ${withFindings.length} with findings, ${likely} of them likely wrong`;
  const about =
    `Made ${data.made} from ${data.source}. The severity of a finding is about how likely a person who looks ` +
    "will change something; above 0.5 it counts as likely (orange).";
  $("overview").replaceChildren(
    el("section.panel.wide", el("h2", headline), el("p.about", about)),
    ...[matrixPanel()].filter(Boolean),
    samplePanel(),
    panel("Findings per check", listed, "all, and in brackets the likely ones; click to see them"),
    panel("Images by their worst finding", bins),
    panel("Status of the subject", simple("statuses")),
    panel("Class", simple("classes")),
    panel("Split", simple("splits")),
    panel("Faces per photo", faces),
    el(
      "section.panel",
      el("h2", "Checks"),
      notRun.map(([why, names]) => el("p", el("b", "Not run: "), names, el("span.soft", " — " + why))),
      el("p", el("b", "Found nothing: "), silent.join(", ") || "none"),
    ),
  );
}
