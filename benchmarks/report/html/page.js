"use strict";
(() => {
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  const methods = document.getElementById("methods");
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const dark = () => root.dataset.theme === "dark";

  const colours = () => {
    const style = getComputedStyle(root);
    const get = (name) => style.getPropertyValue(name).trim();
    return { ink: get("--ink"), line: get("--line"), ground: get("--ground") };
  };

  const channels = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const luminance = (rgb) => {
    const [red, green, blue] = rgb.map((part) => (part <= 10 ? part / 3295 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };

  // On a dark ground black becomes white, and what is too dark is mixed with white up to the contrast WCAG asks of graphics.
  // What is seen through needs more: its ground takes a part of it.
  const GRAPHICS = 3;
  const SEEN_THROUGH = 9;
  const visibleColour = (colour, contrast = GRAPHICS) => {
    if (!dark() || !/^#[0-9a-f]{6}$/i.test(colour)) return colour;
    if (colour === "#000000") return "#ffffff";
    const ground = luminance(channels(colours().ground));
    let rgb = channels(colour);
    while ((luminance(rgb) + 0.05) / (ground + 0.05) < contrast) rgb = rgb.map((part) => Math.round(part + (255 - part) / 10));
    return `#${rgb.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
  };

  const dressed = (figure) => {
    const { ink, line, ground } = colours();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    const layout = structuredClone(figure.layout);
    Object.assign(layout.xaxis, axis);
    Object.assign(layout.yaxis, axis);
    Object.assign(layout, { paper_bgcolor: ground, plot_bgcolor: ground, font: { color: ink, size: 13 } });
    layout.hoverlabel = { bgcolor: ground, bordercolor: line, font: { color: ink }, namelength: -1 };
    // A finger that drags over a chart scrolls the page.
    if (window.matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    const data = structuredClone(figure.data);
    for (const trace of data) {
      if (trace.line && trace.line.color) trace.line.color = visibleColour(trace.line.color);
      if (trace.marker) trace.marker.color = visibleColour(trace.marker.color);
      if (trace.fillcolor) trace.fillcolor = visibleColour(trace.fillcolor, SEEN_THROUGH);
      if (trace.meta && hidden.has(trace.meta.method)) trace.visible = false;
    }
    return { data, layout };
  };

  // Charts are drawn when they come near the window: a long page would take seconds otherwise.
  const near = new Set();
  const stale = new Set(Object.keys(figures));
  const draw = (names) => {
    for (const name of names) {
      if (!stale.delete(name)) continue;
      const { data, layout } = dressed(figures[name]);
      Plotly.react(document.getElementById(name), data, layout, { responsive: true, displayModeBar: false });
    }
  };
  const redraw = () => {
    for (const name of Object.keys(figures)) stale.add(name);
    draw(near);
  };
  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) near.add(target.id);
        else near.delete(target.id);
      }
      draw(near);
    },
    { rootMargin: "600px 0px" },
  );
  for (const name of Object.keys(figures)) observer.observe(document.getElementById(name));
  window.addEventListener("beforeprint", () => draw(Object.keys(figures)));

  const setTheme = (name) => {
    root.dataset.theme = name;
    themeButton.setAttribute("aria-pressed", String(name === "dark"));
    for (const sample of document.querySelectorAll("[data-color]")) {
      const contrast = sample.dataset.band === undefined ? GRAPHICS : SEEN_THROUGH;
      sample.style.color = visibleColour(sample.dataset.color, contrast);
    }
    redraw();
  };

  const showMethods = () => {
    for (const part of document.querySelectorAll("[data-method]")) part.hidden = hidden.has(part.dataset.method);
    for (const [name, figure] of Object.entries(figures)) {
      const method = figure.layout.meta && figure.layout.meta.method;
      document.getElementById(name).closest("figure").hidden = method !== undefined && hidden.has(method);
    }
    redraw();
  };

  // What gets the focus must not end up under the box that sticks to the top.
  const measureBox = () => {
    const sticks = getComputedStyle(methods).position === "sticky";
    root.style.setProperty("--covered", sticks ? `${methods.offsetHeight + 8}px` : "0");
  };

  const sortBy = (header) => {
    const table = header.closest("table");
    const column = header.cellIndex;
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th")) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value;
    const compare = (one, two) => {
      const [first, second] = [key(one), key(two)];
      const numeric = first !== undefined && second !== undefined;
      const order = numeric
        ? Number(first) - Number(second)
        : one.cells[column].textContent.localeCompare(two.cells[column].textContent, "en", { numeric: true });
      return ascending ? order : -order;
    };
    // Rows without a number come last in both directions where the column has numbers.
    const rows = [...body.rows];
    const known = rows.filter((row) => key(row) !== undefined);
    const unknown = known.length ? rows.filter((row) => key(row) === undefined) : [];
    body.append(...(known.length ? known : rows).sort(compare), ...unknown);
  };

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }
  for (const box of methods.querySelectorAll("input")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value);
      else hidden.add(box.value);
      showMethods();
    });
  }
  new ResizeObserver(measureBox).observe(methods);
  window.addEventListener("resize", measureBox);
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  themeButton.addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
  preferred.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  setTheme(root.dataset.theme);
})();
