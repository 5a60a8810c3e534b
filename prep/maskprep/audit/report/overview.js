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
function overview() {
  const filtered = (key, value) => () => {
    for (const each of Object.keys(FACETS)) filter[each].clear();
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
