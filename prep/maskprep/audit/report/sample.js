// ---------------------------------------------------------------- a random sample of the images without findings

const SAMPLED = "random sample"; // what the reasons of its decisions begin with
const SIZES = [20, 50, 100, 200];
const ofSample = (row) => row.reason.split(":")[0] === SAMPLED;

// Images without findings, in random order: by the hash of their content, so everybody gets the same. Those that were
// decided otherwise do not count; the audit may have found them before.
const unflagged = () =>
  ordered
    .filter((i) => !findingsOf[i].length && data.content[i] && decisionsOf[i].every(ofSample))
    .sort((a, b) => (data.content[a] < data.content[b] ? -1 : data.content[a] > data.content[b] ? 1 : a - b));
const sampled = (size) => unflagged().slice(0, size);

// How many of a sample were looked at, and how many of those were wrong: anything but accepted.
function looked(images) {
  const seen = images.filter((i) => decisionsOf[i].length);
  const right = (row) => row.verdict === "keep" || (row.verdict === "relabel" && row.value === row.expected);
  return { seen: seen.length, wrong: seen.filter((i) => !decisionsOf[i].every(right)).length };
}

// Exact 95 % interval of a share of which k of n are known (Clopper and Pearson 1934).
function interval(k, n) {
  const logs = [0];
  for (let j = 1; j <= n; j++) logs.push(logs[j - 1] + Math.log(j));
  const atMost = (k, p) => {
    let sum = 0;
    for (let j = 0; j <= k; j++)
      sum += Math.exp(logs[n] - logs[j] - logs[n - j] + j * Math.log(p) + (n - j) * Math.log1p(-p));
    return sum;
  };
  const root = (f) => {
    let [low, high] = [0, 1];
    for (let step = 0; step < 60; step++) {
      const middle = (low + high) / 2;
      if (f(middle)) low = middle;
      else high = middle;
    }
    return low;
  };
  return [k ? root((p) => 1 - atMost(k - 1, p) < 0.025) : 0, k < n ? root((p) => atMost(k, p) > 0.025) : 1];
}
function estimate(size) {
  const [all, images] = [unflagged().length, sampled(size)];
  const { seen, wrong } = looked(images);
  if (!seen) return `Look at ${images.length} of ${all} images without findings: a where all is right, else what is wrong.`;
  const [low, high] = interval(wrong, seen);
  const percent = (share) => (100 * share).toFixed(1) + "%";
  const number = (share) => Math.round(share * all);
  return (
    `${wrong} of ${seen} looked at ${wrong === 1 ? "is" : "are"} wrong (${images.length - seen} to go): ${percent(wrong / seen)} ` +
    `(95% interval ${percent(low)} to ${percent(high)}), about ${number(wrong / seen)} (${number(low)} to ${number(high)}) ` +
    `of the ${all} images without findings.`
  );
}
function samplePanel() {
  const all = unflagged().length;
  const sizes = SIZES.filter((size, k) => !k || size <= all);
  const seen = (size) => looked(sampled(size)).seen;
  const largest = sizes.findLast((size, k) => !k || seen(size) > seen(sizes[k - 1]));
  const buttons = sizes.map((size) =>
    el("button", { "data-sample": size, disabled: !all, onclick: () => showOnly({ sample: size }) }, `look at ${Math.min(size, all)}`),
  );
  const about = "How many of the images in which no check found anything are wrong all the same? A random sample tells.";
  return el("section.panel", el("h2", "What the audit misses"), el("p.about", about), all ? el("p", { id: "estimate" }, estimate(largest)) : null, el("div.actions", buttons));
}
