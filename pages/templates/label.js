"use strict";
// The gallery. Text reaches the page through textContent and properties alone, never as HTML. However many images there
// are, the document holds one page of them.
const PAGE = 60;
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
// path, name, confidence, truth, further [name, confidence], error, detail, width, height, thumbnail, link, decision
const images = data.images.map((row) => ({
  path: row[0], name: row[1] < 0 ? "" : data.names[row[1]], confidence: row[2], truth: row[3] < 0 ? "" : data.names[row[3]],
  further: row[4], error: row[5], detail: row[6], width: row[7], height: row[8], thumbnail: row[9], link: row[10],
  decision: row[11],
  text: (row[0] + " " + (row[1] < 0 ? row[5] : data.names[row[1]])).toLowerCase(),
}));
const collator = new Intl.Collator(undefined, { numeric: true });
const rank = new Map([...data.names].sort(collator.compare).map((name, place) => [name, place]));
rank.set("", data.names.length);
const orders = {
  class: (a, b) => rank.get(a.name) - rank.get(b.name) || b.confidence - a.confidence,
  least: (a, b) => (a.name ? a.confidence : 2) - (b.name ? b.confidence : 2),
  most: (a, b) => b.confidence - a.confidence,
  input: () => 0,
};
let found = images;
let page = 0;
let open = -1;

function element(tag, css, text) {
  const made = document.createElement(tag);
  if (css) made.className = css;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bar(share, css) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, width] of [["track", 100], ["bar " + css, 100 * share]]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", name);
    rect.setAttribute("width", width);
    rect.setAttribute("height", 10);
    svg.append(rect);
  }
  return svg;
}

const percent = (share) => (100 * share).toFixed(1) + " %";
const isWrong = (image) => image.truth !== "" && image.name !== "" && image.truth !== image.name;
const isTiny = (image) => image.width > 0 && Math.max(image.width, image.height) <= 64;
const embedded = (image) => "data:image/webp;base64," + image.thumbnail;

function picture(image, large) {
  const shown = element("img", isTiny(image) ? "tiny" : "");
  shown.alt = "";
  shown.decoding = "async";
  shown.loading = large || image.thumbnail ? "eager" : "lazy";
  shown.addEventListener("error", () => {
    if (image.thumbnail && !shown.src.startsWith("data:")) shown.src = embedded(image);
    else shown.replaceWith(element("span", "", "no picture to be had here"));
  });
  shown.src = image.thumbnail && !(large && image.link) ? embedded(image) : image.link;
  return shown;
}

function fill(box, image, large) {
  if (image.name && (image.thumbnail || image.link)) box.replaceChildren(picture(image, large));
  else box.replaceChildren(element("span", "", image.name ? "no picture to be had here" : image.error || "no answer yet"));
}

function tile(image, place) {
  const item = element("li");
  const button = element("button", "tile" + (isWrong(image) ? " wrong" : ""));
  button.type = "button";
  button.dataset.place = place;
  const shown = element("div", "shown");
  fill(shown, image, false);
  const label = element("b", "label", image.name || image.error || "missing");
  label.title = label.textContent;
  button.append(shown, label);
  if (image.name) {
    const line = element("div", "line");
    line.append(bar(image.confidence, isWrong(image) ? "wrong" : ""), element("span", "percent", percent(image.confidence)));
    button.append(line);
    if (isWrong(image)) button.append(element("span", "truth", "is " + image.truth));
  }
  const path = element("span", "path");
  path.title = image.path;
  path.append(element("bdi", "", image.path));
  button.append(path);
  item.append(button);
  return item;
}

function show() {
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const grouped = $("order").value === "class";
  const items = [];
  let before = null;
  for (let place = page * PAGE; place < Math.min(found.length, (page + 1) * PAGE); place++) {
    const image = found[place];
    if (grouped && image.name !== before) {
      before = image.name;
      items.push(element("li", "class", image.name || "not labelled"));
    }
    items.push(tile(image, place));
  }
  $("tiles").replaceChildren(...items);
  $("previous").disabled = page === 0;
  $("next").disabled = page >= pages - 1;
  const counted = found.length.toLocaleString("en") + (found.length === 1 ? " image" : " images");
  $("found").textContent = found.length ? counted + ", page " + (page + 1) + " of " + pages : "no image is like this";
}

function filter() {
  const label = $("label").value;
  const folder = $("folder") ? $("folder").value : "";
  const status = $("status").value;
  const low = (parseFloat($("low").value) || 0) / 100;
  const high = $("high").value === "" ? 1 : parseFloat($("high").value) / 100;
  const bounded = low > 0 || high < 1;
  const words = $("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const states = {
    "": () => true, ok: (i) => i.name !== "", error: (i) => i.error !== "", missing: (i) => !i.name && !i.error,
    right: (i) => i.truth !== "" && i.truth === i.name, wrong: isWrong,
    accept: (i) => i.decision === "accept", review: (i) => i.decision === "review", unknown: (i) => i.decision === "unknown",
  };
  found = images.filter((image) =>
    (!label || image.name === label) && (!folder || image.truth === folder) && states[status](image) &&
    (!bounded || (image.name !== "" && image.confidence >= low && image.confidence <= high)) &&
    words.every((word) => image.text.includes(word)));
  const order = $("order").value;
  if (order !== "input") found = found.slice().sort(orders[order]);
  page = 0;
  show();
}

function turn(step) {
  page += step;
  show();
}

function look(place) {
  if (place < 0 || place >= found.length) return;
  open = place;
  const image = found[place];
  fill($("closer-image"), image, true);
  $("closer-title").textContent = image.name ? image.name + ", " + percent(image.confidence) : image.error || "missing";
  const facts = [];
  if (isWrong(image)) facts.push(element("p", "says", "The " + $("truth").dataset.by + " says " + image.truth + "."));
  if (image.name) {
    const list = element("ul", "bars");
    for (const [index, value] of image.further) {
      const item = element("li");
      item.append(element("span", "name", data.names[index]), bar(value, ""), element("span", "count", percent(value)));
      list.append(item);
    }
    facts.push(list);
  }
  if (image.decision) facts.push(element("p", "note", "Decision: " + image.decision));
  if (image.detail) facts.push(element("p", "", image.detail));
  if (image.width) facts.push(element("p", "note", image.width + " × " + image.height + " pixels"));
  facts.push(element("p", "path", image.path));
  if (image.link) {
    const link = element("a", "", "Open the file");
    link.href = image.link;
    link.target = "_blank";
    link.rel = "noopener";
    const line = element("p");
    line.append(link);
    facts.push(line);
  }
  $("closer-facts").replaceChildren(...facts);
  $("closer-previous").disabled = place === 0;
  $("closer-next").disabled = place === found.length - 1;
  if (!$("closer").open) {
    $("closer").showModal();
    $("closer-close").focus();
  }
}

function closed() {
  // Focus goes back to the tile of the image that was looked at last.
  if (Math.floor(open / PAGE) !== page) {
    page = Math.floor(open / PAGE);
    show();
  }
  const button = $("tiles").querySelector('[data-place="' + open + '"]');
  if (button) button.focus();
}

function moved(event) {
  const buttons = [...$("tiles").querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  if (at < 0) return;
  const top = buttons[at].offsetTop;
  let to = at;
  if (event.key === "ArrowRight") to = at + 1;
  else if (event.key === "ArrowLeft") to = at - 1;
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const down = event.key === "ArrowDown";
    const rows = buttons.map((b) => b.offsetTop).filter((t) => (down ? t > top : t < top));
    const row = down ? Math.min(...rows) : Math.max(...rows);
    const near = (b) => Math.abs(b.offsetLeft - buttons[at].offsetLeft);
    const line = buttons.filter((b) => b.offsetTop === row).sort((a, b) => near(a) - near(b));
    if (line.length) to = buttons.indexOf(line[0]);
  } else if (event.key === "PageDown" || event.key === "PageUp") {
    turn(event.key === "PageDown" ? 1 : -1);
    const first = $("tiles").querySelector("button");
    if (first) first.focus();
    event.preventDefault();
    return;
  } else return;
  event.preventDefault();
  if (buttons[to]) buttons[to].focus();
}

function chosen(event) {
  const button = event.target.closest("button[data-label]");
  if (!button) return;
  $("filters").reset();
  $("label").value = button.dataset.label;
  if (button.dataset.truth && $("folder")) $("folder").value = button.dataset.truth;
  filter();
  $("gallery").scrollIntoView();
  $("label").focus({ preventScroll: true });
}

$("filters").hidden = $("pager").hidden = false;
$("filters").addEventListener("input", filter);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(filter));
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("tiles").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) look(Number(button.dataset.place));
});
$("tiles").addEventListener("keydown", moved);
$("closer").addEventListener("close", closed);
$("closer").addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") look(open + 1);
  if (event.key === "ArrowLeft") look(open - 1);
});
$("closer-previous").addEventListener("click", () => look(open - 1));
$("closer-next").addEventListener("click", () => look(open + 1));
$("closer-close").addEventListener("click", () => $("closer").close());
document.querySelector("main").addEventListener("click", chosen);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) && !$("closer").open) {
    event.preventDefault();
    $("text").focus();
  }
});
filter();
