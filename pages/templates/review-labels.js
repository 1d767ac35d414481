// The box that finds any label while somebody types, or takes a new one. Text reaches the page by textContent alone.
const MOST_SHOWN = 12;

export class LabelBox {
  // choose(label) is called with what was taken, leave() when the box is left without.
  constructor(input, list, choose, leave) {
    this.input = input;
    this.list = list;
    this.labels = [];
    this.choose = choose;
    this.leave = leave;
    this.at = 0;
    input.addEventListener("input", () => this.show());
    input.addEventListener("focus", () => this.show());
    input.addEventListener("blur", () => setTimeout(() => this.hide(), 150)); // after a click into the list
    input.addEventListener("keydown", (event) => this.pressed(event));
    list.addEventListener("mousedown", (event) => {
      event.preventDefault();
      const item = event.target.closest("li");
      if (item) this.take(item.dataset.label);
    });
  }

  begin(letter) {
    this.input.value = letter;
    this.input.focus();
    this.show();
  }

  matches() {
    const text = this.input.value.trim().replace(/\s+/g, " ");
    const small = text.toLowerCase();
    const starts = this.labels.filter((label) => label.toLowerCase().startsWith(small));
    const holds = this.labels.filter((label) => !label.toLowerCase().startsWith(small) && label.toLowerCase().includes(small));
    const found = [...starts, ...holds].slice(0, MOST_SHOWN).map((label) => ({ label, text: label }));
    const isKnown = this.labels.some((label) => label.toLowerCase() === small);
    if (text && !isKnown) found.push({ label: text, text: "new label: " + text });
    return found;
  }

  show() {
    const found = this.matches();
    this.at = 0;
    this.list.replaceChildren(...found.map((item, place) => {
      const line = document.createElement("li");
      line.id = "label-" + place;
      line.setAttribute("role", "option");
      line.dataset.label = item.label;
      line.textContent = item.text;
      return line;
    }));
    this.list.hidden = found.length === 0;
    this.input.setAttribute("aria-expanded", String(found.length > 0));
    this.mark();
  }

  mark() {
    [...this.list.children].forEach((line, place) => line.setAttribute("aria-selected", String(place === this.at)));
    const line = this.list.children[this.at];
    if (line) {
      this.input.setAttribute("aria-activedescendant", line.id);
      line.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  hide() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  pressed(event) {
    const lines = this.list.children;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      this.at = (this.at + (event.key === "ArrowDown" ? 1 : -1) + lines.length) % Math.max(1, lines.length);
      this.mark();
    } else if (event.key === "Enter") {
      if (lines[this.at] && this.input.value.trim()) this.take(lines[this.at].dataset.label);
    } else if (event.key === "Escape") {
      this.input.value = "";
      this.hide();
      this.leave();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  take(label) {
    this.input.value = "";
    this.hide();
    this.choose(label);
  }
}
