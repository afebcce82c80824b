"use strict";
// Sorts and filters the tables, and draws the figures of the page of many runs.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const symbols = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x",
    "star"];
  const narrow = () => window.innerWidth < 640;
  // The library reads some tags in texts: names are no tags.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;")
    .replace(/>/g, "&gt;");
  const cut = (text, most) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
  const number = (value, digits) => value === null || value === undefined ? "–"
    : value.toFixed(digits);
  let colours = {};

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    colours = { ink: of("text"), soft: of("muted"), line: of("line"), paper: of("back") };
    colours.rows = [...Array(10).keys()].map((k) => of(`c${k}`));
  }
  const colour = (row) => colours.rows[row % 10];
  const symbol = (row) => symbols[Math.floor(row / 10) % symbols.length];
  function faint(row, strength) {
    const hex = colour(row).slice(1);
    const parts = [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
    return `rgba(${parts.join(",")},${strength})`;
  }

  // --- Which methods are shown -------------------------------------------------------------------

  function drawnRows(section) {
    return [...section.querySelectorAll("table[id$='-comparison'] tbody tr")]
      .filter((row) => !row.hidden && row.querySelector(".drawn").checked)
      .map((row) => Number(row.dataset.row)).sort((a, b) => a - b);
  }

  function filter() {
    const words = document.getElementById("filter").value.toLowerCase().split(/\s+/)
      .filter(Boolean);
    let all = 0, shown = 0;
    for (const section of document.querySelectorAll("section.group")) {
      const texts = {};
      for (const row of section.querySelectorAll(
        "table[id$='-comparison'] tbody tr, table[id$='-settings'] tbody tr")) {
        const cells = row.closest("table").id.endsWith("-settings")
          ? row.textContent : row.querySelector("th").textContent;
        texts[row.dataset.row] = `${texts[row.dataset.row] || ""} ${cells}`.toLowerCase();
      }
      for (const row of section.querySelectorAll("tbody tr[data-row]")) {
        row.hidden = !words.every((word) => texts[row.dataset.row].includes(word));
      }
      all += Object.keys(texts).length;
      shown += section.querySelectorAll("table[id$='-comparison'] tbody tr:not([hidden])").length;
    }
    document.getElementById("shown").textContent = words.length
      ? `${shown} of ${all} methods` : `${all} methods`;
    drawAll();
  }

  // --- Tables ------------------------------------------------------------------------------------

  function compareKeys(one, other) {
    if (one === other) { return 0; }
    if (one === "") { return 1; }
    if (other === "") { return -1; }
    const a = Number(one), b = Number(other);
    if (Number.isNaN(a) || Number.isNaN(b)) {
      return one.localeCompare(other, undefined, { numeric: true });
    }
    return a - b;
  }

  function sort(head) {
    const table = head.closest("table"), body = table.tBodies[0];
    const column = head.cellIndex;
    // Numbers begin with the highest, words with the first.
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of table.tHead.rows[0].cells) { one.removeAttribute("aria-sort"); }
    head.setAttribute("aria-sort", order);
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      if (key(a) === "" || key(b) === "") { return compareKeys(key(a), key(b)); }
      return compareKeys(key(a), key(b)) * (order === "ascending" ? 1 : -1);
    });
    body.append(...rows);
  }

  function chooseBase(section, place) {
    const table = section.querySelector("table[data-difference]");
    if (!table) { return; }
    const column = Number(table.dataset.difference);
    const pairs = figures[section.id].pairs[place];
    for (const row of table.tBodies[0].rows) {
      const [text, sub, key] = pairs[Number(row.dataset.row)];
      const cell = row.cells[column];
      cell.textContent = text;
      cell.dataset.key = key === null ? "" : String(key);
      if (sub) {
        const small = document.createElement("small");
        small.textContent = sub;
        cell.append(small);
      }
    }
    const head = table.tHead.rows[0].cells[column];
    head.removeAttribute("aria-sort");
  }

  // --- Figures -----------------------------------------------------------------------------------

  function layout(rows, more) {
    const axis = { gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.soft,
      automargin: true, tickfont: { color: colours.soft } };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: { family: "system-ui, sans-serif", size: 13, color: colours.ink },
      margin: { l: 48, r: 14, t: 8, b: 44 }, hovermode: "closest",
      hoverlabel: { align: "left", bgcolor: colours.paper, bordercolor: colours.soft,
        font: { color: colours.ink } },
      dragmode: narrow() ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colours.soft, activecolor: colours.ink },
      // Of many methods the signs in the table are the legend.
      showlegend: rows.length > 1 && rows.length <= (narrow() ? 4 : 14),
      legend: { orientation: "h", y: narrow() ? -0.42 : -0.22, yanchor: "top", font: { size: 12 } },
      height: Math.max(narrow() ? 330 : 420, more.tall || 0),
      xaxis: { ...axis, ...more.x }, yaxis: { ...axis, ...more.y },
    };
  }

  // Nothing leaves the page: the library would offer to send figures to its makers.
  const config = { responsive: true, displaylogo: false, showSendToCloud: false,
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: "fedsim" } };

  function draw(box, traces, rows, more) {
    const empty = !traces.length;
    const arranged = layout(rows, more);
    if (empty) {
      arranged.annotations = [{ text: "nothing to draw", showarrow: false, xref: "paper",
        yref: "paper", x: 0.5, y: 0.5, font: { color: colours.soft } }];
    }
    Plotly.react(box, traces, arranged, config);
  }

  // Where a logarithmic axis ends, there is room for what has no epsilon.
  function epsilonAxis(values) {
    const known = values.filter((value) => value !== null && value > 0);
    const low = known.length ? Math.min(...known) : 1, high = known.length ? Math.max(...known) : 1;
    const none = high * Math.max(2, (high / low) ** 0.22);
    const ticks = [...new Set(known)].sort((a, b) => a - b);
    const kept = ticks.filter((one, k) => k === 0 || one / ticks[k - 1] > 1.15);
    const shown = kept.length > 9 ? kept.filter((_, k) => k % Math.ceil(kept.length / 9) === 0)
      : kept;
    const step = Math.max(1.3, (high / low) ** 0.1);
    return { none, step, axis: { type: "log", tickvals: [...shown, none],
      ticktext: [...shown.map((one) => String(Number(one.toPrecision(2)))), "none"],
      title: { text: "epsilon" } } };
  }

  function inUnit(title, unit) { return plain(title) + (unit ? `, ${unit}` : ""); }

  function drawRounds(section) {
    const figure = document.getElementById(`${section.id}-rounds`);
    if (!figure) { return; }
    const facts = figures[section.id], rows = drawnRows(section);
    const metric = figure.querySelector(".metric").value;
    const [, , scale, digits, unit] = facts.metrics.find((one) => one[0] === metric);
    const axis = figure.querySelector(".axis").value;
    const traces = [];
    for (const row of rows) {
      const line = facts.lines[row], found = line.scores[metric];
      if (!found) { continue; }
      const x = line[axis];
      const there = x.map((value, k) => value !== null && found.mean[k] !== null ? k : -1)
        .filter((k) => k >= 0);
      if (!there.length) { continue; }
      const xs = there.map((k) => x[k]), ys = there.map((k) => scale * found.mean[k]);
      const wide = there.filter((k) => found.sd[k] !== null);
      const name = cut(plain(facts.names[row]), 60);
      if (wide.length > 1) {
        const high = wide.map((k) => scale * (found.mean[k] + found.sd[k]));
        const low = wide.map((k) => scale * (found.mean[k] - found.sd[k]));
        const places = wide.map((k) => x[k]);
        traces.push({ x: [...places, ...places.slice().reverse()],
          y: [...high, ...low.reverse()], fill: "toself", fillcolor: faint(row, rows.length > 5 ? 0.08 : 0.17),
          line: { width: 0 }, hoverinfo: "skip", showlegend: false, mode: "lines",
          legendgroup: String(row) });
      }
      traces.push({ x: xs, y: ys, name, legendgroup: String(row), mode: "lines+markers",
        line: { color: colour(row), width: 2 },
        marker: { color: colour(row), symbol: symbol(row), size: xs.length > 60 ? 3 : 7 },
        hoverinfo: "text",
        hovertext: there.map((k) => `<b>${cut(plain(facts.names[row]), 60)}</b><br>`
          + `round ${line.round[k]}: ${number(scale * found.mean[k], digits)}`
          + (found.sd[k] === null ? "" : ` ± ${number(scale * found.sd[k], digits)}`)
          + `<br>${number(line.mb[k], 3)} MB`
          + (line.epsilon[k] === null ? "" : `<br>epsilon ${number(line.epsilon[k], 2)}`)) });
    }
    const names = { round: "round", mb: "MB sent, up and down", epsilon: "epsilon spent" };
    const chosen = figure.querySelector(".metric").selectedOptions[0].textContent;
    const x = { title: { text: names[axis] } };
    if (axis === "mb") { x.type = "log"; }
    if (axis === "round") {
      x.tickformat = "d";
      if (rows.every((row) => Math.max(0, ...facts.lines[row].round) <= 10)) { x.dtick = 1; }
    }
    draw(figure.querySelector(".plot"), traces, rows,
      { x, y: { title: { text: inUnit(chosen, unit) } } });
  }

  function drawFront(section) {
    const figure = document.getElementById(`${section.id}-front`);
    const facts = figures[section.id], axis = figure.querySelector(".axis").value;
    const rows = drawnRows(section).filter((row) => facts.points[row].score !== null);
    const scale = epsilonAxis(rows.map((row) => facts.points[row].epsilon));
    const unbounded = rows.filter((row) => !(facts.points[row].epsilon > 0));
    const place = (row) => {
      const one = facts.points[row];
      if (axis === "mb") { return one.mb; }
      if (one.epsilon > 0) { return one.epsilon; }
      // Beside each other, not on top of each other.
      const aside = unbounded.indexOf(row) - (unbounded.length - 1) / 2;
      return scale.none * scale.step ** (aside / Math.max(1, unbounded.length));
    };
    // The third quantity: the size of a sign stands for MB, the text beside it for epsilon.
    const sent = rows.map((row) => facts.points[row].mb).filter((one) => one > 0);
    const least = Math.min(...sent), most = Math.max(...sent);
    const size = (one) => axis === "mb" || !(one.mb > 0) || most / least < 1.05 ? 11
      : 8 + 10 * Math.log(one.mb / least) / Math.log(most / least);
    const labelled = axis === "mb" && rows.length <= (narrow() ? 8 : 25);
    const traces = [];
    const kinds = [...new Set(rows.map((row) => facts.points[row].trained))];
    for (const kind of kinds) {
      const own = rows.filter((row) => facts.points[row].trained === kind)
        .sort((a, b) => place(a) - place(b));
      if (own.length > 1) {
        traces.push({ x: own.map(place), y: own.map((row) => facts.points[row].score),
          mode: "lines", line: { color: colours.soft, width: 1, dash: "dot" },
          hoverinfo: "skip", showlegend: false });
      }
    }
    for (const row of rows) {
      const one = facts.points[row], bar = one.low !== null;
      const private_ = !one.private ? "without privacy"
        : `epsilon ${one.epsilon === null ? "without bound" : Number(one.epsilon.toPrecision(4))}`
          + (one.delta === null ? "" : ` at delta ${one.delta}`)
          + (one.unit ? `, of a ${plain(one.unit)}` : "")
          + (one.certified ? "" : ", claimed, not certified");
      traces.push({ x: [place(row)], y: [one.score],
        mode: labelled && one.epsilon !== null ? "markers+text" : "markers",
        text: [one.epsilon === null ? "" : `ε ${Number(one.epsilon.toPrecision(2))}`],
        textposition: "middle right", textfont: { size: 11, color: colours.soft },
        name: cut(plain(facts.names[row]), 60),
        marker: { size: size(one) + (one.front ? 3 : 0), color: colour(row),
          symbol: symbol(row) + (one.certified ? "" : "-open"),
          line: { width: one.front ? 2.5 : one.certified ? 0 : 2,
            color: one.front ? colours.ink : colour(row) } },
        error_y: { type: "data", symmetric: false, visible: bar, thickness: 1, width: 3,
          color: colour(row), array: bar ? [Math.max(0, one.high - one.score)] : [0],
          arrayminus: bar ? [Math.max(0, one.score - one.low)] : [0] },
        hoverinfo: "text",
        hovertext: [`<b>${cut(plain(facts.names[row]), 60)}</b>`
          + `<br>${plain(facts.score)} ${number(one.score, facts.digits)}`
          + (one.sd === null ? "" : ` ± ${number(one.sd, facts.digits)}`)
          + (bar ? ` (95%: ${number(one.low, facts.digits)}–${number(one.high, facts.digits)})` : "")
          + `<br>${private_}<br>${number(one.mb, 3)} MB`
          + (one.seconds === null ? "" : `, ${number(one.seconds, 0)} s`)
          + `, ${one.seeds} ${one.seeds === 1 ? "seed" : "seeds"}`
          + (one.front ? "<br>on the front" : "")] });
    }
    const x = axis === "mb" ? { type: "log", title: { text: "MB sent, up and down" } }
      : scale.axis;
    draw(figure.querySelector(".plot"), traces, rows,
      { x, y: { title: { text: inUnit(facts.score, facts.unit) } } });
  }

  function drawPart(section, short) {
    const figure = document.getElementById(`${section.id}-${short}`);
    const facts = figures[section.id], part = facts.parts[short], rows = drawnRows(section);
    const names = part.names.map((name) => cut(plain(name), narrow() ? 14 : 28));
    const traces = rows.map((row, place) => {
      const shift = rows.length > 1 ? (place / (rows.length - 1) - 0.5) * 0.6 : 0;
      const known = part.values[row].map((value, k) => value === null ? -1 : k)
        .filter((k) => k >= 0);
      return { x: known.map((k) => part.values[row][k]), y: known.map((k) => k + shift),
        mode: "markers", name: cut(plain(facts.names[row]), 60),
        marker: { color: colour(row), symbol: symbol(row), size: rows.length > 15 ? 7 : 10 },
        hoverinfo: "text",
        hovertext: known.map((k) => `<b>${cut(plain(facts.names[row]), 60)}</b><br>`
          + `${plain(part.names[k])}: ${number(part.values[row][k], part.digits)}`) };
    });
    const each = Math.min(90, 30 + 5 * rows.length);
    draw(figure.querySelector(".plot"), traces, rows, {
      x: { title: { text: inUnit(part.score, part.unit) } },
      y: { tickvals: names.map((_, k) => k), ticktext: names, autorange: "reversed",
        zeroline: false },
      tall: 110 + each * names.length });
  }

  function drawSection(section) {
    drawRounds(section);
    drawFront(section);
    for (const short of Object.keys(figures[section.id].parts)) { drawPart(section, short); }
  }

  function drawAll() { document.querySelectorAll("section.group").forEach(drawSection); }

  // --- What a person does ------------------------------------------------------------------------

  document.body.classList.add("scripted");
  readColours();
  for (const button of document.querySelectorAll(".sort")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  let waiting = 0;
  document.getElementById("filter").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  for (const section of document.querySelectorAll("section.group")) {
    const base = section.querySelector(".base");
    if (base) { base.addEventListener("change", () => chooseBase(section, Number(base.value))); }
    for (const one of section.querySelectorAll(".drawn, .metric, .axis")) {
      one.addEventListener("change", () => drawSection(section));
    }
    // A method without privacy has nothing to show over epsilon; a page of several budgets has.
    const points = figures[section.id].points;
    const budgets = new Set(points.map((one) => one.epsilon).filter((one) => one !== null));
    if (budgets.size > 1) {
      document.querySelector(`#${section.id}-front .axis`).value = "epsilon";
    }
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    drawAll();
  });
  filter();
})();
