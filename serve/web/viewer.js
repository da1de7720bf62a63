// Viewer: before and after in one place, a wipe between them, outlines of the faces to select.

const SVG = "http://www.w3.org/2000/svg";
const get = (id) => document.getElementById(id);

function drawn(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

export class Viewer {
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

  // Show an image with the outlines of its faces; `keep` keeps the wipe position.
  open(url, analysis, keep = false) {
    get("viewer").hidden = false;
    this.shape(analysis.width, analysis.height);
    get("before").src = url;
    this.show(url, "");
    this.outline(analysis);
    if (!keep) this.wipe.value = 0;
    this.draw();
  }

  // Show a photo before its analysis, if the browser can decode it.
  async showUnanalysed(url) {
    const image = new Image();
    image.src = url;
    try { await image.decode(); } catch { return; }
    get("drop").hidden = true;
    this.open(url, { width: image.naturalWidth, height: image.naturalHeight, faces: [] });
  }

  close() { get("viewer").hidden = true; }

  shape(width, height) {
    this.plate.style.setProperty("--ratio", `${width} / ${height}`);
    this.plate.style.setProperty("--aspect", width / height);
  }

  show(url, tag) {
    get("after").src = url;
    get("tag").textContent = tag;
    get("tag").hidden = !tag;
    this.plate.classList.toggle("edited", Boolean(tag)); // the outlines are the photograph's
  }

  outline(analysis) {
    const svg = get("outlines"), many = analysis.faces.length > 1;
    svg.setAttribute("viewBox", `0 0 ${analysis.width} ${analysis.height}`);
    svg.replaceChildren(...analysis.faces.map((face, index) => {
      const [x0, y0, x1, y1] = face.box, grow = 0.06 * (y1 - y0);
      const group = drawn("g", {});
      group.append(
        drawn("rect", { x: x0 - grow, y: y0 - grow, width: x1 - x0 + 2 * grow, height: y1 - y0 + 2 * grow, rx: 0.12 * (x1 - x0) }),
        drawn("path", { d: (analysis.contours ?? []).map((line) => `M${line.map((k) => face.landmarks[k].join(",")).join("L")}`).join("") }));
      if (many) {
        for (const [name, value] of [["tabindex", 0], ["role", "button"], ["aria-label", `Face ${index + 1} of ${analysis.faces.length}`]]) group.setAttribute(name, value);
        group.addEventListener("click", () => this.chosen(index));
        group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.chosen(index); } });
      }
      return group;
    }));
  }

  choose(index) {
    [...get("outlines").children].forEach((face, i) => {
      face.classList.toggle("chosen", i === index);
      if (face.hasAttribute("role")) face.setAttribute("aria-pressed", i === index);
    });
  }
}
