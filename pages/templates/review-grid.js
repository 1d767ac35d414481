// The images of one page: tiles, the one that the keyboard is at, and those that are chosen.
import { small } from "./review-server.js";

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, css, text) {
  const made = document.createElement(tag);
  if (css) made.className = css;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function bar(share) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 10");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, width] of [["track", 100], ["bar", 100 * share]]) {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", name);
    rect.setAttribute("width", width);
    rect.setAttribute("height", 10);
    svg.append(rect);
  }
  return svg;
}

export const percent = (share) => (100 * share).toFixed(1) + " %";

const WORDS = { right: "✓ ", wrong: "→ ", reject: "✕ not usable", skip: "… skipped" };
export const said = (image) => (image.verdict === "open" ? "" : WORDS[image.verdict] + image.label);

export function picture(address, css) {
  const shown = element("img", css);
  shown.alt = "";
  shown.decoding = "async";
  shown.addEventListener("load", () => shown.classList.toggle("tiny", Math.max(shown.naturalWidth, shown.naturalHeight) <= 64));
  shown.addEventListener("error", () => shown.replaceWith(element("span", "", "no picture to be had here")));
  shown.src = address;
  return shown;
}

export function tile(image) {
  const made = element("div", "tile");
  const shown = element("div", "shown");
  shown.append(picture(small(image.id), ""));
  made.append(shown);
  const [first, second] = image.ranked;
  const label = element("b", "label", first ? first[0] : image.error);
  label.title = first ? first[0] : image.detail;
  made.append(label);
  if (first) {
    const line = element("div", "line");
    line.append(bar(first[1]), element("span", "percent", percent(first[1])));
    made.append(line);
  }
  const other = image.other && image.other[0] !== first?.[0] ? "other: " + image.other[0] + ", " + percent(image.other[1]) : "";
  const unknown = image.decision === "unknown" ? "unknown" : "";
  const note = element("span", "note", [unknown, other || (second ? "or " + second[0] : "")].filter(Boolean).join(" · ") || "\u00a0");
  note.title = other;
  made.append(note);
  made.append(element("span", "verdict", "\u00a0"));
  const path = element("span", "path");
  path.title = image.path;
  path.append(element("bdi", "", image.path));
  made.append(path);
  return made;
}

export class Grid {
  // opened(image) is called when a tile is double-clicked, moved() when another tile is the current one or chosen.
  constructor(box, opened, moved) {
    this.box = box;
    this.images = [];
    this.tiles = new Map();
    this.chosen = new Set();
    this.pending = new Set(); // those whose decision is on its way to the server
    this.at = 0;
    this.anchor = 0;
    this.moved = moved;
    box.addEventListener("click", (event) => this.clicked(event));
    box.addEventListener("dblclick", (event) => {
      const place = this.placeOf(event);
      if (place >= 0) opened(this.images[place]);
    });
  }

  show(images) {
    this.images = images;
    this.tiles = new Map(images.map((image, place) => {
      const made = tile(image);
      made.id = "image-" + image.id;
      made.dataset.place = place;
      made.setAttribute("role", "option");
      return [image.id, made];
    }));
    this.box.replaceChildren(...this.tiles.values());
    if (!images.length) this.box.replaceChildren(element("p", "note", "No image is like this."));
    this.chosen.clear();
    this.at = this.anchor = Math.max(0, images.findIndex((image) => image.verdict === "open"));
    for (const image of images) this.draw(image);
    this.mark(false);
  }

  get current() {
    return this.images[this.at];
  }

  get undecided() {
    return this.images.filter((image) => this.isOpen(image));
  }

  // Those that a decision is about: the chosen ones, or the one that the keyboard is at.
  get subjects() {
    const ids = this.images.filter((image) => this.chosen.has(image.id)).map((image) => image.id);
    return ids.length || !this.current ? ids : [this.current.id];
  }

  draw(image) {
    const made = this.tiles.get(image.id);
    if (!made) return;
    const verdict = made.querySelector(".verdict");
    verdict.className = "verdict " + image.verdict;
    verdict.textContent = said(image) || "\u00a0";
    verdict.title = said(image);
    made.classList.toggle("decided", image.verdict !== "open");
    const isChosen = this.chosen.has(image.id);
    made.classList.toggle("chosen", isChosen);
    made.setAttribute("aria-selected", String(isChosen));
    const [first] = image.ranked;
    const label = first ? first[0] + ", " + percent(first[1]) : image.error;
    made.setAttribute("aria-label", [label, said(image) || "undecided", image.path].join(", "));
  }

  // Takes in the new state of images, and returns those that are shown.
  update(changed) {
    const byId = new Map(changed.map((image) => [image.id, image]));
    const here = this.images.filter((image) => byId.has(image.id));
    for (const image of here) {
      Object.assign(image, byId.get(image.id));
      this.draw(image);
    }
    return here;
  }

  mark(scroll = true) {
    for (const made of this.box.querySelectorAll(".here")) made.classList.remove("here");
    const image = this.current;
    if (!image) {
      this.box.removeAttribute("aria-activedescendant");
      return;
    }
    const made = this.tiles.get(image.id);
    made.classList.add("here");
    this.box.setAttribute("aria-activedescendant", made.id);
    if (scroll) made.scrollIntoView({ block: "nearest" });
    this.moved();
  }

  go(place, extend) {
    if (!this.images.length) return;
    this.at = Math.min(Math.max(place, 0), this.images.length - 1);
    if (extend) this.range();
    else this.anchor = this.at;
    this.mark();
  }

  range() {
    const [from, to] = [Math.min(this.anchor, this.at), Math.max(this.anchor, this.at)];
    this.choose(this.images.slice(from, to + 1).map((image) => image.id));
  }

  choose(ids) {
    this.chosen = new Set(ids);
    for (const image of this.images) this.draw(image);
    this.moved();
  }

  toggle() {
    const image = this.current;
    if (!image) return;
    if (!this.chosen.delete(image.id)) this.chosen.add(image.id);
    this.anchor = this.at;
    this.draw(image);
    this.moved();
  }

  isOpen(image) {
    return image.verdict === "open" && !this.pending.has(image.id);
  }

  // Goes to the next image that is undecided, from the current one on, if there is one.
  advance() {
    const after = this.images.findIndex((image, place) => place >= this.at && this.isOpen(image));
    const place = after >= 0 ? after : this.images.findIndex((image) => this.isOpen(image));
    if (place >= 0) this.go(place, false);
  }

  columns() {
    return getComputedStyle(this.box).gridTemplateColumns.split(" ").length;
  }

  placeOf(event) {
    const made = event.target.closest(".tile");
    return made ? Number(made.dataset.place) : -1;
  }

  clicked(event) {
    const place = this.placeOf(event);
    if (place < 0) return;
    this.at = place;
    if (event.shiftKey) this.range();
    else this.toggle();
    this.mark(false);
  }
}
