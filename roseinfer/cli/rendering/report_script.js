"use strict";
// Tables that sort by a column, and drawings that zoom. Without this script, the page shows all the same.
(() => {
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  // Tables. A column sorts by its numbers, the largest first, or by its texts; the third click restores the order.
  const cellValue = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = /^[+-]?[\d,]*\.?\d+/.exec(text);
    return number ? Number(number[0].replaceAll(",", "")) : text;
  };

  const compare = (left, right, sign) => {
    if (left === "" || right === "") return (left === "") - (right === ""); // empty cells come last
    if (typeof left !== typeof right) return typeof left === "number" ? -1 : 1;
    return sign * (typeof left === "number" ? left - right : left.localeCompare(right, "en"));
  };

  // Indented rows belong to the row above them, and move with it. Totals and rows of what was left out stay last.
  const families = (rows) => {
    const top = { inner: [] };
    const open = [top];
    for (const row of rows) {
      const depth = Number(row.cells[0].style.getPropertyValue("--depth")) || 0;
      open.length = Math.min(open.length, depth + 1);
      const family = { row, inner: [] };
      open[open.length - 1].inner.push(family);
      open.push(family);
    }
    return top;
  };

  const sorted = (family, column, sign) => {
    const isLast = ({ row }) => row.matches(".total, .rest");
    const order = (left, right) =>
      isLast(left) - isLast(right) ||
      (isLast(left) ? 0 : compare(cellValue(left.row, column), cellValue(right.row, column), sign));
    const inner = sign === 0 ? family.inner : [...family.inner].sort(order);
    return inner.flatMap((one) => [one.row, ...sorted(one, column, sign)]);
  };

  for (const table of document.querySelectorAll(".roseinfer table")) {
    const body = table.tBodies[0];
    const family = families([...body.rows]);
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const first = head.matches(".number, .change") ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const next = { null: first, [first]: second, [second]: null };
      const button = make("button", { type: "button", title: "sort by this column" }, ...head.childNodes);
      button.addEventListener("click", () => {
        const direction = next[head.getAttribute("aria-sort")];
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (direction !== null) head.setAttribute("aria-sort", direction);
        body.append(...sorted(family, column, { ascending: 1, descending: -1, null: 0 }[direction]));
      });
      head.append(button);
    });
  }

  // Drawings. Boxes keep their height; zooming widens and moves them, and cuts them at the edges.
  const zoomable = (svg) => {
    const width = svg.viewBox.baseVal.width;
    const total = Number(svg.dataset.total);
    const boxes = [...svg.querySelectorAll("rect")].map((rect) => ({
      rect,
      left: Number(rect.getAttribute("x")),
      size: Number(rect.getAttribute("width")),
      name: rect.dataset.name,
      label: rect.nextElementSibling?.matches("text") ? rect.nextElementSibling : null,
    }));
    const ticks = [...svg.querySelectorAll("text.tick")];
    let start = 0;
    let span = width;

    const shortened = ({ name, rect }, fits) => {
      if (name.length <= fits) return name;
      if (fits < 6) return "";
      return rect.dataset.cut === "start" ? `…${name.slice(1 - fits)}` : `${name.slice(0, fits - 1)}…`;
    };
    const draw = () => {
      const scale = width / span;
      for (const box of boxes) {
        const left = Math.max(0, (box.left - start) * scale);
        const size = Math.min(width, (box.left + box.size - start) * scale) - left;
        box.rect.style.display = size > 0 ? "" : "none";
        box.rect.setAttribute("x", left);
        box.rect.setAttribute("width", Math.max(0, size));
        if (box.name === undefined) continue;
        const text = shortened(box, Math.floor(Math.max(0, size) / 6.2) - 1);
        if (text && box.label === null) {
          box.label = document.createElementNS(svg.namespaceURI, "text");
          box.label.setAttribute("y", Number(box.rect.getAttribute("y")) + Number(svg.dataset.baseline));
          box.rect.after(box.label);
        }
        if (box.label !== null) {
          box.label.textContent = text;
          box.label.setAttribute("x", left + 3);
        }
      }
      const digits = Math.max(1, Math.min(4, 2 - Math.floor(Math.log10((span / width) * total))));
      const at = (place) => ((place / width) * total).toFixed(digits);
      ticks.forEach((tick, index) => {
        tick.textContent = `${at(start + (index * span) / (ticks.length - 1))} ms`;
      });
      shown.textContent = span < width ? `${at(start)} to ${at(start + span)} of ${at(width)} ms` : "";
      for (const button of [out, back, ahead, whole]) button.disabled = span >= width;
      svg.classList.toggle("zoomed", span < width);
    };
    const show = (from, size) => {
      span = Math.min(width, Math.max(width / 20000, size));
      start = Math.min(width - span, Math.max(0, from));
      draw();
    };
    const zoom = (factor, share = 0.5) => show(start + span * share * (1 - factor), span * factor);
    const move = (share) => show(start + share * span, span);
    const reset = () => show(0, width);

    const button = (text, label, action) => {
      const made = make("button", { type: "button", title: label, ariaLabel: label }, text);
      made.addEventListener("click", action);
      return made;
    };
    const [closer, out] = [button("+", "zoom in", () => zoom(0.5)), button("−", "zoom out", () => zoom(2))];
    const [back, ahead] = [button("←", "earlier", () => move(-0.5)), button("→", "later", () => move(0.5))];
    const whole = button("whole", "show all", reset);
    const shown = make("output", {});
    const help = "Click a box, or use + − ← → and 0.";
    const frame = svg.parentElement;
    frame.before(make("p", { className: "zoom" }, closer, out, back, ahead, whole, shown, make("span", {}, help)));

    const keys = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: reset, Escape: reset };
    const moves = { ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25) };
    frame.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own keys
      const action = keys[event.key] ?? (span < width ? moves[event.key] : undefined);
      if (action === undefined) return;
      event.preventDefault();
      action();
    });

    const place = (event) => {
      const edges = svg.getBoundingClientRect();
      return (event.clientX - edges.left) / edges.width;
    };
    frame.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey && !event.metaKey) return; // a plain wheel scrolls the page
        event.preventDefault();
        zoom(event.deltaY > 0 ? 1.25 : 0.8, place(event));
      },
      { passive: false },
    );
    let grip = null; // where a drag began: [place of the pointer, start of the view, pixels moved]
    svg.addEventListener("pointerdown", (event) => {
      grip = event.button === 0 ? { at: place(event), start, pixel: event.clientX, moved: false } : null;
    });
    svg.addEventListener("pointermove", (event) => {
      if (grip === null || event.pointerType !== "mouse" || event.buttons === 0) return;
      grip.moved ||= Math.abs(event.clientX - grip.pixel) > 4;
      if (grip.moved && span < width) show(grip.start - (place(event) - grip.at) * span, span);
    });
    svg.addEventListener("click", (event) => {
      const box = boxes.find((one) => one.rect === event.target || one.label === event.target);
      if (grip?.moved || box?.name === undefined) return;
      show(box.left, box.size);
    });
    draw();
  };

  document.querySelectorAll("svg.zoomable").forEach(zoomable);
})();
