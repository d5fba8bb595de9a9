"use strict";
(() => {
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const hidden = new Set();
  const dark = () => root.dataset.theme === "dark";

  const colours = () => {
    const style = getComputedStyle(root);
    const get = (name) => style.getPropertyValue(name).trim();
    return { ink: get("--ink"), line: get("--line"), ground: get("--ground") };
  };

  // Black lines would vanish on a dark ground.
  const visibleColour = (colour) => (dark() && (colour === "#000000" || colour === "#000") ? "#ffffff" : colour);

  const dressed = (figure) => {
    const { ink, line, ground } = colours();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    const layout = structuredClone(figure.layout);
    Object.assign(layout.xaxis, axis);
    Object.assign(layout.yaxis, axis);
    Object.assign(layout, { paper_bgcolor: ground, plot_bgcolor: ground, font: { color: ink, size: 13 } });
    layout.hoverlabel = { bgcolor: ground, bordercolor: line, font: { color: ink } };
    const data = structuredClone(figure.data);
    for (const trace of data) {
      if (trace.line && trace.line.color) trace.line.color = visibleColour(trace.line.color);
      if (trace.marker && typeof trace.marker.color === "string") trace.marker.color = visibleColour(trace.marker.color);
      if (trace.meta && hidden.has(trace.meta.method)) trace.visible = false;
    }
    return { data, layout };
  };

  const draw = () => {
    for (const [name, figure] of Object.entries(figures)) {
      const place = document.getElementById(name);
      const method = figure.layout.meta && figure.layout.meta.method;
      place.closest("figure").hidden = method !== undefined && hidden.has(method);
      const { data, layout } = dressed(figure);
      Plotly.react(place, data, layout, { responsive: true, displayModeBar: false });
    }
  };

  const setTheme = (name) => {
    root.dataset.theme = name;
    themeButton.setAttribute("aria-pressed", String(name === "dark"));
    draw();
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
  for (const box of document.querySelectorAll("#methods input")) {
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(box.value);
      else hidden.add(box.value);
      for (const row of document.querySelectorAll("tr[data-method]")) row.hidden = hidden.has(row.dataset.method);
      draw();
    });
  }
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  themeButton.addEventListener("click", () => setTheme(dark() ? "light" : "dark"));
  preferred.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  setTheme(preferred.matches ? "dark" : "light");
})();
