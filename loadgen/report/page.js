"use strict";
// Two comforts: what a chart says under the pointer, and versions that can be switched off. The page is whole without.
(() => {
  const NS = "http://www.w3.org/2000/svg";

  const points = (line) => {
    const tips = line.dataset.tips.split("|");
    const places = line.querySelector("path").getAttribute("d").match(/[\d.-]+ [\d.-]+/g) || [];
    return places.map((place, index) => {
      const [x, y] = place.split(" ").map(Number);
      return { x, y, tip: tips[index] };
    });
  };

  for (const plot of document.querySelectorAll(".plot")) {
    const svg = plot.querySelector("svg");
    const width = svg.viewBox.baseVal.width;
    let lines = null, tip = null, cursor = null;

    const hide = () => {
      tip?.remove();
      cursor?.remove();
      tip = cursor = null;
    };
    const show = (event) => {
      lines ??= [...svg.querySelectorAll(".line[data-tips]")].map((line) => ({ line, points: points(line) }));
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * width;
      const found = [];
      for (const each of lines) {
        if (each.line.style.display === "none" || !each.points.length) continue;
        const nearest = each.points.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
        if (Math.abs(nearest.x - x) < 24) found.push({ ...nearest, line: each.line });
      }
      if (!found.length) return hide();
      found.sort((a, b) => a.y - b.y);
      if (!tip) {
        tip = plot.appendChild(document.createElement("div"));
        tip.className = "tip";
        cursor = svg.appendChild(document.createElementNS(NS, "path"));
        cursor.setAttribute("class", "cursor");
      }
      cursor.setAttribute("d", `M${found[0].x} 12V${svg.viewBox.baseVal.height - 46}`);
      tip.replaceChildren(...found.slice(0, 16).map(({ line, tip: words }) => {
        const row = document.createElement("div");
        const dot = row.appendChild(document.createElement("i"));
        dot.className = line.getAttribute("class").replace("line", "").trim();
        row.append(`${line.dataset.name} ${words}`);
        return row;
      }));
      const left = found[0].x / width * box.width;
      tip.style.top = "10px";
      if (left > box.width / 2) {
        tip.style.left = "";
        tip.style.right = `${box.width - left + 14}px`;
      } else {
        tip.style.right = "";
        tip.style.left = `${left + 14}px`;
      }
    };
    svg.addEventListener("pointermove", show);
    svg.addEventListener("pointerdown", show);
    svg.addEventListener("pointerleave", hide);
  }

  for (const legend of document.querySelectorAll(".legend")) {
    const keys = [...legend.querySelectorAll(".key")];
    if (keys.length < 2) continue;
    for (const key of keys) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = key.className;
      button.append(...key.childNodes);
      button.title = "show or hide";
      button.setAttribute("aria-pressed", "true");
      const colour = key.dataset.colour;
      button.addEventListener("click", () => {
        const shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        for (const line of legend.parentElement.querySelectorAll(`.line.${colour}`)) {
          line.style.display = shown ? "" : "none";
        }
      });
      key.replaceWith(button);
    }
  }
})();
