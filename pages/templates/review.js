// The review page. Each decision is saved before the page says so; what another tab has changed is shown, not replaced.
import { Grid, bar, element, percent, picture, said, tile } from "./review-grid.js";
import { LabelBox } from "./review-labels.js";
import { get, large, post, small } from "./review-server.js";

const $ = (id) => document.getElementById(id);
const TOP = 9; // labels with a digit
const EVERY_MS = 1000; // between two looks at a training
const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
const grid = new Grid($("grid"), () => look(true), moved);
const box = new LabelBox($("label"), $("labels"), (label) => { back(); decide("label", label); }, back);
let state = { groups: [], labels: [], images: 0 };
let view = { key: "", total: 0 };
let page = 0;
let version = 0; // of the corrections that this page has seen
let alike = { images: [], label: "" }; // undecided near-duplicates of what was labelled last
let zoom = 0;
let waiting = 0;
let busy = Promise.resolve(); // one request after the other: each needs the version that the one before has made

const count = () => Number($("count").value);
const counted = (number, what) => number.toLocaleString("en") + " " + what + (number === 1 ? "" : "s");

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

function inTurn(work) {
  waiting += 1;
  $("grid").setAttribute("aria-busy", "true");
  busy = busy.then(work).catch(async (error) => {
    say(error.message, true);
    if (error.conflict) await take(await get("news", { known: version }), "Changed by another tab, so nothing was saved. Look at them, then decide again: ");
    if (error.status === 410) await open();
  }).catch((error) => say(error.message, true)).finally(() => {
    waiting -= 1;
    $("grid").setAttribute("aria-busy", String(waiting > 0));
  });
  return busy;
}

// What stands around the images.
function draw(found) {
  version = found.version;
  $("undo").disabled = found.undo === 0;
  $("redo").disabled = found.redo === 0;
  $("undo").textContent = "Undo (" + found.undo + ")";
  $("redo").textContent = "Redo (" + found.redo + ")";
  if (found.groups) state.groups = found.groups;
  drawGroups();
}

// The labels, and how many of their images have the decision that is looked at.
function groups() {
  const byName = new Map();
  for (const { name, decision, images, todo } of state.groups) {
    const sum = byName.get(name) || { name, images: 0, todo: 0 };
    byName.set(name, sum);
    if ($("decision").value && $("decision").value !== decision) continue;
    sum.images += images;
    sum.todo += todo;
  }
  return [...byName.values()];
}

function drawGroups() {
  const found = groups();
  const all = { name: "", images: 0, todo: 0 };
  for (const group of found) {
    all.images += group.images;
    all.todo += group.todo;
  }
  const chosen = $("group").value;
  $("group").replaceChildren(...[all, ...found].map((group) => {
    const name = group.name === "" ? "all labels" : group.name === "\0failed" ? "no label" : group.name;
    const option = element("option", "", name + ": " + group.todo.toLocaleString("en") + " of " + group.images.toLocaleString("en") + " to do");
    option.value = group.name;
    return option;
  }));
  $("group").value = chosen;
  $("done").max = Math.max(1, all.images);
  $("done").value = all.images - all.todo;
  $("done-text").textContent = (all.images - all.todo).toLocaleString("en") + " of " + counted(all.images, "image") + " decided";
}

function drawLabels() {
  box.labels = state.labels;
  $("choices").replaceChildren(...state.labels.slice(0, TOP).map((label, place) => {
    const button = element("button", "plain");
    button.type = "button";
    button.dataset.label = label;
    button.title = label;
    button.append(element("kbd", "", String(place + 1)), " " + label);
    return button;
  }));
}

async function load() {
  state = await get("state");
  $("about").textContent = [state.model && "labelled by " + state.model + (state.other && ", beside it " + state.other), "saved in " + state.file.split("/").pop()].filter(Boolean).join(" · ");
  $("about").title = state.file;
  $("command").textContent = state.command;
  $("learn").hidden = !state.command;
  for (const [value, there] of [["disagreement", state.other], ["outlier", state.outliers]]) {
    const option = $("order").querySelector("[value=" + value + "]");
    option.hidden = option.disabled = !there;
  }
  $("decisions").hidden = !state.decisions;
  for (const row of document.querySelectorAll(".of-two")) row.hidden = !state.other;
  drawLabels();
  draw(state);
}

// Looks at the training until it has ended.
async function follow() {
  const found = await get("training");
  $("training-lines").hidden = !found.lines.length;
  $("training-lines").textContent = found.lines.join("\n");
  $("train").disabled = found.running;
  if (found.running) {
    $("training").textContent = "training";
    setTimeout(() => follow().catch((error) => say(error.message, true)), EVERY_MS);
  } else if (found.code !== null) $("training").textContent = found.code === 0 ? "Done. Label again, then look for new answers." : "It failed; see below.";
}

async function open(place = 0) {
  view = await get("view", { group: $("group").value, order: $("order").value, show: $("show").value, text: $("text").value, decision: $("decision").value });
  page = Math.floor(place / count());
  await turn(0);
}

async function turn(step) {
  const pages = Math.max(1, Math.ceil(view.total / count()));
  if (page + step >= pages && step > 0) return next();
  page = Math.min(Math.max(page + step, 0), pages - 1);
  const found = await get("page", { key: view.key, start: page * count(), count: count() });
  grid.show(found.images);
  $("previous").disabled = page === 0;
  $("found").textContent = counted(view.total, "image") + ", page " + (page + 1) + " of " + pages;
  if (!$("large").hidden) look(true);
  ahead();
}

// After the last page comes the label with the most to look at.
async function next() {
  const here = $("group").value;
  const left = groups().filter((group) => group.todo > 0 && group.name !== here);
  if (here === "" || !left.length) return say(left.length || view.total ? "This is the last page." : "All images are decided.");
  $("group").value = left.reduce((most, group) => (group.todo > most.todo ? group : most)).name;
  await open();
  say("Next: " + $("group").selectedOptions[0].textContent);
}

// Thumbnails of the next page are made while this one is looked at.
async function ahead() {
  const start = (page + 1) * count();
  if (start >= view.total) return;
  const found = await get("page", { key: view.key, start, count: count() }).catch(() => ({ images: [] }));
  for (const image of found.images) new Image().src = small(image.id);
}

function decide(verdict, label = "", ids = grid.subjects) {
  if (!ids.length) return say("Choose images first.");
  alike = { images: [], label: "" };
  $("near").hidden = true;
  // The keyboard goes on at once; the answer must not move whoever is at the next image already.
  const shown = grid.images;
  if (verdict !== "open") for (const id of ids) grid.pending.add(id);
  grid.choose([]);
  if (verdict !== "open") grid.advance();
  return inTurn(async () => {
    const found = await post("decide", { images: ids, verdict, label, known: version }).finally(() => ids.forEach((id) => grid.pending.delete(id)));
    if (label && !state.labels.includes(label)) {
      state.labels.push(label);
      drawLabels();
    }
    draw(found);
    grid.update(found.changed);
    moved();
    const words = { right: "right", reject: "not usable", skip: "skipped", open: "undecided", label };
    say(counted(ids.length, "image") + ": " + words[verdict] + ". Saved.");
    if (verdict === "label") findAlike(ids, label);
    if ($("show").value === "todo" && grid.images === shown && !grid.undecided.length && !grid.pending.size) await turn(1);
  });
}

// The other version is right about the chosen images: one decision for each label that it gives.
function otherIsRight() {
  const subjects = grid.subjects;
  const byLabel = new Map();
  for (const image of grid.images.filter((one) => subjects.includes(one.id) && one.other)) {
    byLabel.set(image.other[0], [...(byLabel.get(image.other[0]) || []), image.id]);
  }
  if (!byLabel.size) return say("No other version has labelled this image.");
  for (const [label, ids] of byLabel) decide("label", label, ids);
}

function allRight() {
  const ids = grid.undecided.filter((image) => image.ranked.length).map((image) => image.id);
  if (!ids.length) return inTurn(() => turn(1));
  return decide("right", "", ids);
}

async function findAlike(ids, label) {
  const found = await post("near", { images: ids }).catch(() => ({ images: [] }));
  alike = { images: found.images, label };
  $("near").hidden = !found.images.length;
  $("near").textContent = counted(found.images.length, "near-duplicate") + " (+)";
  const among = found.among < state.images ? " among the " + found.among.toLocaleString("en") + " images looked at so far" : "";
  if (found.images.length) say($("status").textContent + " " + counted(found.images.length, "near-duplicate") + " not decided yet" + among + "; + shows them.");
}

function showAlike() {
  if (!alike.images.length) return say("No near-duplicates of what was labelled last.");
  $("alike-title").textContent = counted(alike.images.length, "image") + " that look like these";
  $("alike-images").replaceChildren(...alike.images.map((image) => {
    const item = element("li");
    item.append(tile(image));
    return item;
  }));
  $("alike-yes").textContent = "Label all of them " + alike.label;
  $("alike").showModal();
  $("alike-yes").focus();
}

function move(name) {
  return inTurn(async () => {
    const found = await post(name, { known: version, view: view.key });
    if (!found.moved) return draw(found), say(name === "undo" ? "There is nothing to undo." : "There is nothing to redo.");
    await take(found, (name === "undo" ? "Taken back: " : "Done again: ") + counted(found.moved, "image") + ". ", found.place);
  });
}

// Takes in what changed, here or in another tab, and says it.
async function take(found, words, place = -1) {
  draw(found);
  if (place >= 0 && Math.floor(place / count()) !== page) {
    page = Math.floor(place / count());
    await turn(0);
  }
  const here = grid.update(found.changed);
  if (here.length) grid.go(grid.images.indexOf(here[0]), false);
  if (!$("large").hidden) look(true);
  const shown = found.changed.slice(0, 3).map((image) => image.path + " is " + (said(image) || "undecided"));
  say(words + shown.join("; ") + (found.changed.length > 3 ? " and more" : ""), words.startsWith("Changed"));
}

function moved() {
  const number = grid.chosen.size;
  $("all-count").textContent = grid.undecided.length;
  if (number && !waiting) say(counted(number, "image") + " chosen");
  if (!$("large").hidden) look(true);
}

// The large view of the current image takes the place of the grid; all keys go on as they are.
function look(isOn) {
  const image = grid.current;
  if (isOn && !image) return;
  const was = !$("large").hidden;
  $("large").hidden = !isOn;
  $("grid").hidden = isOn;
  $("review").classList.toggle("looking", isOn);
  if (!isOn) return back();
  if (!was || $("large-picture").dataset.id !== String(image.id)) {
    $("large-picture").dataset.id = image.id;
    $("large-picture").replaceChildren(picture(large(image.id), ""));
    scale(0);
  }
  const facts = [element("h2", "", image.ranked.length ? image.ranked[0][0] + ", " + percent(image.ranked[0][1]) : image.error)];
  facts.push(element("p", "verdict " + image.verdict, said(image) || "undecided"));
  const list = element("ul", "bars");
  for (const [label, share] of image.ranked) {
    const item = element("li");
    item.append(element("span", "name", label), bar(share), element("span", "count", percent(share)));
    list.append(item);
  }
  facts.push(list);
  if (image.decision) facts.push(element("p", "note", "decision: " + image.decision));
  if (image.other) facts.push(element("p", "note", state.other + ": " + image.other[0] + ", " + percent(image.other[1])));
  if (image.detail) facts.push(element("p", "", image.detail));
  facts.push(element("p", "path", image.path));
  $("large-facts").replaceChildren(...facts);
  if (!was) back();
}

function scale(to) {
  zoom = Math.min(Math.max(to, 0), ZOOMS.length - 1);
  const shown = $("large-picture").querySelector("img");
  if (shown) shown.style.width = shown.style.height = 100 * ZOOMS[zoom] + "%";
  $("zoom").textContent = Math.round(100 * ZOOMS[zoom]) + " %";
}

// The keyboard goes back to where the images are.
function back() {
  ($("large").hidden ? $("grid") : $("large")).focus({ preventScroll: true });
}

function pressed(event) {
  if (event.altKey || event.isComposing) return;
  const key = event.key;
  if (event.ctrlKey || event.metaKey) {
    const letter = key.toLowerCase();
    if (letter === "z") move(event.shiftKey ? "redo" : "undo");
    else if (letter === "y") move("redo");
    else if (letter === "a") grid.choose(grid.images.map((image) => image.id));
    else return;
  } else if (key.startsWith("Arrow")) {
    const isLarge = !$("large").hidden;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: isLarge ? -1 : -grid.columns(), ArrowDown: isLarge ? 1 : grid.columns() };
    grid.go(grid.at + steps[key], event.shiftKey);
  } else if (key === "Home" || key === "End") grid.go(key === "Home" ? 0 : grid.images.length, event.shiftKey);
  else if (key === " ") grid.toggle();
  else if (key === "Enter") event.shiftKey ? allRight() : decide("right");
  else if (key === "Delete" || key === "Backspace") decide("reject");
  else if (key === "-") decide("skip");
  else if (key === "=") otherIsRight();
  else if (key === "+") showAlike();
  else if (key === "0") look($("large").hidden);
  else if (key === "." || key === ",") scale(zoom + (key === "." ? 1 : -1));
  else if (key === "Escape") $("large").hidden ? grid.choose([]) : look(false);
  else if (key === "PageDown" || key === "PageUp") inTurn(() => turn(key === "PageDown" ? 1 : -1));
  else if (/^[1-9]$/.test(key)) {
    const label = state.labels[Number(key) - 1];
    if (label !== undefined) decide("label", label);
  } else if (/^\p{L}$/u.test(key)) box.begin(key);
  else return;
  event.preventDefault();
}

for (const id of ["grid", "large"]) $(id).addEventListener("keydown", pressed);
$("choices").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) decide("label", button.dataset.label);
});
for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => decide(button.dataset.verdict));
$("all-right").addEventListener("click", allRight);
$("undo").addEventListener("click", () => move("undo"));
$("redo").addEventListener("click", () => move("redo"));
$("near").addEventListener("click", showAlike);
$("alike-yes").addEventListener("click", () => {
  const { images, label } = alike;
  $("alike").close();
  decide("label", label, images.map((image) => image.id));
});
$("alike-no").addEventListener("click", () => $("alike").close());
$("alike").addEventListener("close", back);
$("previous").addEventListener("click", () => inTurn(() => turn(-1)));
$("next").addEventListener("click", () => inTurn(() => turn(1)));
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(state.command);
  say("The command is on the clipboard.");
});
$("train").addEventListener("click", () => inTurn(async () => {
  await post("train", {});
  await follow();
}));
$("large-close").addEventListener("click", () => look(false));
$("zoom-in").addEventListener("click", () => scale(zoom + 1));
$("zoom-out").addEventListener("click", () => scale(zoom - 1));
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("change", () => inTurn(() => {
  drawGroups();
  return open();
}));
$("reload").addEventListener("click", () => inTurn(async () => {
  state = await post("reload", {});
  drawLabels();
  draw(state);
  await open();
  say(state.compared || "The run was read again.");
}));
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState !== "visible") return;
  inTurn(async () => {
    const found = await get("news", { known: version });
    draw(found);
    grid.update(found.changed);
  });
});

inTurn(async () => {
  await load();
  $("order").value = state.order;
  $("decision").value = state.only;
  drawGroups();
  await open();
  $("grid").focus({ preventScroll: true });
  if (state.command) await follow();
});
