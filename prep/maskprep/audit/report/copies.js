// ---------------------------------------------------------------- copies: the two photos of a pair side by side

const PAIRS = 6; // shown at once

function copies(i) {
  const pairs = copiesOf[i];
  if (!pairs.length) return [];
  const more = pairs.length > PAIRS ? [el("p.soft", `and ${pairs.length - PAIRS} more`)] : [];
  return [el("h4", pairs.length > 1 ? `${pairs.length} photos are alike` : "The pair"), ...pairs.slice(0, PAIRS).map((pair) => copy(i, pair)), ...more];
}
function copy(i, { other, kind, distance }) {
  const how = kind === "exact" ? "The same file" : `Nearly the same picture: ${distance} of 256 bits differ`;
  const split = data.split[i] !== data.split[other] && "in two splits";
  const person = personOf[i] && personOf[other] && personOf[i] !== personOf[other] && "of two people";
  const known = isAllowed(i, other);
  const allow = () => decide([i], acts.allow(other));
  const button = el("button", { "data-act": "allow", title: "The two may stay", disabled: known, onclick: allow }, known ? "Pair allowed" : "Allow the pair");
  return el(
    "div.copies",
    el("div.facts", [how, split, person].filter(Boolean).join(", ") + "."),
    el("div.pair", side(i, other), side(other, i)),
    el("div.actions", button),
  );
}
// One of the two; what sets it apart from the other is bold.
function side(i, other) {
  const facts = [
    ["person", personOf[i], personOf[other]],
    ["split", data.split[i], data.split[other]],
    ["label", classOf[i], classOf[other]],
    ["size", `${data.width[i]}×${data.height[i]}`, `${data.width[other]}×${data.height[other]}`],
  ].filter(([, value]) => value);
  const lines = facts.map(([name, mine, theirs]) => el("div", el("span.soft", name + " "), el(mine === theirs ? "span" : "b", mine)));
  const decided = decisionText(i);
  const picture = shownPhoto(i) ? el("img", { src: photo(i), alt: "", draggable: "false" }) : el("div.note", data.error[i]);
  const look = el("button.pic", { title: "look at this one", onclick: () => go(i) }, picture);
  const drop = el("button", { "data-act": "drop-copy", onclick: () => decide([i], acts.drop) }, "Drop this one");
  return el("div", look, el("div.path", data.path[i]), lines, decided ? el("div.state", decided) : null, drop);
}
