// The picture: before and after in one place, a wipe between them, and the faces to choose from.

const SVG = "http://www.w3.org/2000/svg";
const get = (id) => document.getElementById(id);

export class Stage {
  constructor(chosen) {
    this.chosen = chosen;
    this.plate = get("plate");
    this.wipe = get("wipe");
    this.wipe.addEventListener("input", () => this.draw());
    const drag = (event) => {
      const box = this.plate.getBoundingClientRect();
      this.wipe.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      this.draw();
    };
    this.plate.addEventListener("pointerdown", (event) => {
      if (event.target.closest("[role=button]")) return;
      this.plate.setPointerCapture(event.pointerId);
      drag(event);
    });
    this.plate.addEventListener("pointermove", (event) => { if (this.plate.hasPointerCapture(event.pointerId)) drag(event); });
    this.draw();
  }

  draw() {
    const at = Number(this.wipe.value);
    this.plate.style.setProperty("--wipe", `${at}%`);
    this.plate.classList.toggle("wiping", at > 0 && at < 100);
    get("tag-before").hidden = at < 12;
    this.wipe.setAttribute("aria-valuetext", at === 0 ? "after" : at === 100 ? "before" : `before up to ${at} percent`);
  }

  open(url, seen) {
    get("stage").hidden = false;
    get("drop").hidden = true;
    this.plate.style.setProperty("--ratio", `${seen.width} / ${seen.height}`);
    this.plate.style.setProperty("--aspect", seen.width / seen.height);
    get("before").src = url;
    this.show(url, "");
    this.outline(seen);
    this.wipe.value = 0;
    this.draw();
  }

  show(url, tag) {
    get("after").src = url;
    get("tag").textContent = tag;
    get("tag").hidden = !tag;
  }

  outline(seen) {
    const svg = get("outlines"), many = seen.faces.length > 1;
    svg.setAttribute("viewBox", `0 0 ${seen.width} ${seen.height}`);
    svg.replaceChildren(...seen.faces.map((face, index) => {
      const [x0, y0, x1, y1] = face.box, grow = 0.06 * (y1 - y0);
      const box = document.createElementNS(SVG, "rect");
      const set = { x: x0 - grow, y: y0 - grow, width: x1 - x0 + 2 * grow, height: y1 - y0 + 2 * grow, rx: 0.12 * (x1 - x0) };
      for (const [name, value] of Object.entries(set)) box.setAttribute(name, value);
      if (many) {
        box.setAttribute("tabindex", "0");
        box.setAttribute("role", "button");
        box.setAttribute("aria-label", `Face ${index + 1} of ${seen.faces.length}`);
        box.addEventListener("click", () => this.chosen(index));
        box.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.chosen(index); } });
      }
      return box;
    }));
  }

  choose(index) {
    [...get("outlines").children].forEach((box, i) => {
      box.classList.toggle("chosen", i === index);
      if (box.hasAttribute("role")) box.setAttribute("aria-pressed", i === index);
    });
  }
}
