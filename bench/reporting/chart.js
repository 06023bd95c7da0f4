// The interactive figure: two axes of the reader's choice, models on and off, failures in a strip below, as panels.py.

class Chart {
  constructor(host) {
    this.host = host;
    this.data = JSON.parse(document.getElementById(`${host.dataset.chart}-data`).textContent);
    const {measures, metric, rows} = this.data;
    this.place = name => measures.findIndex(measure => measure.name === name);
    const least = measures.findIndex(measure => !measure.isMetric);
    this.state = {
      up: Math.max(0, this.place(metric)),
      across: Math.max(0, this.place("parameters") < 0 ? least : this.place("parameters")),
      logUp: null,
      logAcross: null,
      hidden: [],
      share: 1,
      ...this.kept(),
    };
    this.rows = rows.map((row, index) => ({...row, index}));
    this.stop = -1;
    this.build();
    this.tell();
  }

  // A page that is served loads itself again; what the reader chose stays, by the names of the axes.
  kept() {
    if (!document.getElementById("recscale-live")) return {};
    try {
      const {axes, ...found} = JSON.parse(sessionStorage.getItem(`recscale ${this.data.title}`));
      const [up, across] = axes.map(this.place);
      return up < 0 || across < 0 ? {} : {...found, up, across};
    } catch {
      return {};
    }
  }

  keep() {
    if (!document.getElementById("recscale-live")) return;
    const axes = [this.up.name, this.across.name];
    try {
      sessionStorage.setItem(`recscale ${this.data.title}`, JSON.stringify({...this.state, axes}));
    } catch {
      /* storage is off: nothing is kept */
    }
  }

  get across() {
    return this.data.measures[this.state.across];
  }
  get up() {
    return this.data.measures[this.state.up];
  }
  nameOf(row) {
    return `${this.data.models[row.model].name} ${row.details}`.trim();
  }
  isShown(row) {
    return !this.state.hidden.includes(this.data.models[row.model].name);
  }

  // Costs are drawn over their decades and metrics as they are, unless the reader wants otherwise.
  isLog(which) {
    const measure = which === "Up" ? this.up : this.across;
    const chosen = this.state[`log${which}`];
    const column = which === "Up" ? this.state.up : this.state.across;
    const values = this.rows.map(row => row.values?.[column]).filter(value => value !== null && value !== undefined);
    return values.every(value => value > 0) && (chosen ?? !measure.isMetric);
  }

  build() {
    const select = (key, words) => {
      const options = this.data.measures.map((measure, index) =>
        make("option", {value: index, selected: index === this.state[key]}, measure.label),
      );
      const found = make(
        "select",
        {
          "aria-label": words,
          onchange: event => {
            this.state[key] = Number(event.target.value);
            this.state[key === "up" ? "logUp" : "logAcross"] = null;
            this.change();
          },
        },
        ...options,
      );
      return found;
    };
    const log = (which, words) =>
      (this[`log${which}`] = make("input", {
        type: "checkbox",
        "aria-label": words,
        onchange: event => {
          this.state[`log${which}`] = event.target.checked;
          this.change();
        },
      }));
    this.chips = this.data.models.map(model =>
      make(
        "button",
        {type: "button", class: "chip", onclick: () => this.toggle(model.name)},
        swatch(model),
        model.name,
      ),
    );
    const all = (words, hidden) =>
      make(
        "button",
        {
          type: "button",
          class: "plain",
          onclick: () => {
            this.state.hidden = hidden;
            this.change();
          },
        },
        words,
      );
    const share = make("input", {
      type: "number",
      min: 0,
      max: 100,
      step: "any",
      value: this.state.share,
      "aria-label": "per cent of the best",
      oninput: event => {
        const value = Number(event.target.value);
        if (event.target.value !== "" && value >= 0 && value <= 100) {
          this.state.share = value;
          this.tell();
          this.keep();
        }
      },
    });
    this.plot = make("div", {class: "canvas"});
    this.ring = make("div", {class: "ring", hidden: true});
    this.tip = make("div", {class: "tip", hidden: true});
    this.frame = make(
      "div",
      {
        class: "frame",
        tabindex: 0,
        role: "application",
        "aria-roledescription": "chart",
        onkeydown: event => this.key(event),
        onblur: event => this.frame.contains(event.relatedTarget) || this.hide(),
      },
      this.plot,
      this.ring,
      this.tip,
    );
    this.said = make("p", {class: "unseen", "aria-live": "polite"});
    this.words = make("output");
    this.table = make("div", {
      class: "scroll",
      tabindex: 0,
      role: "region",
      "aria-label": `The points of the chart: ${this.data.title}`,
    });
    this.fold = make(
      "details",
      {ontoggle: () => this.fillTable()},
      make("summary", {}, "The points of the chart as a table"),
      this.table,
    );
    this.host.append(
      make(
        "div",
        {class: "tools"},
        make("label", {}, "Up ", select("up", "vertical axis")),
        make("label", {}, log("Up", "log, vertical axis"), " log"),
        make("label", {}, "across ", select("across", "horizontal axis")),
        make("label", {}, log("Across", "log, horizontal axis"), " log"),
        make("button", {type: "button", class: "plain", onclick: () => this.save()}, "Save as SVG"),
      ),
      this.frame,
      this.said,
      make(
        "div",
        {class: "chips", role: "group", "aria-label": "Models shown"},
        ...this.chips,
        all("all", []),
        all(
          "none",
          this.data.models.map(model => model.name),
        ),
      ),
      make("p", {class: "answer"}, make("label", {}, "Within ", share, " % of the best: "), this.words),
      this.fold,
    );
  }

  toggle(name) {
    const hidden = this.state.hidden;
    this.state.hidden = hidden.includes(name) ? hidden.filter(other => other !== name) : [...hidden, name];
    this.change();
  }

  change() {
    this.hide();
    this.tell();
    this.keep();
    if (this.drawn) this.draw();
  }

  // Everything that can be said without drawing: the points, the answer, the state of the controls.
  tell() {
    const value = (row, column) => row.values[column];
    const above = (number, which) => !this.isLog(which) || number > 0;
    this.points = this.rows
      .filter(row => row.values && this.isShown(row))
      .map(row => ({row, x: value(row, this.state.across), y: value(row, this.state.up)}))
      .filter(({x, y}) => known(x) && known(y) && above(x, "Across") && above(y, "Up"));
    const pairs = this.points.map(({x, y}) => [x, y]);
    const corners = this.across === this.up ? [] : frontierOf(pairs, this.across, this.up);
    this.corners = corners.map(index => this.points[index]);
    const named = this.points.map(({row, x, y}) => Object.assign([x, y], {row}));
    this.words.textContent = answer(
      this,
      smallestWithin(pairs, this.state.share / 100, this.across, this.up),
      this.state.share,
      named,
    );
    this.chips.forEach((chip, index) =>
      chip.setAttribute("aria-pressed", String(!this.state.hidden.includes(this.data.models[index].name))),
    );
    this.plot.style.minHeight = `${heightOf(this.failures())}px`; // room for what is drawn once it comes into view
    for (const which of ["Up", "Across"]) this[`log${which}`].checked = this.isLog(which);
    const failed = this.rows.filter(row => row.outcome && this.isShown(row)).length;
    this.frame.setAttribute(
      "aria-label",
      `${this.data.title}: ${this.up.label} against ${this.across.label}. ${this.points.length} points, ` +
        `${this.corners.length} of them on the frontier; ${failed} that did not finish. ` +
        "Arrow keys go from point to point, Enter opens the run.",
    );
    this.fillTable();
  }

  fillTable() {
    if (!this.fold.open) return;
    const head = ["model", this.up.label, this.across.label, "frontier"].map((words, index) =>
      make("th", {scope: "col", class: index % 3 ? "number" : ""}, words),
    );
    const line = (name, ...cells) =>
      make(
        "tr",
        {},
        make("th", {scope: "row"}, name),
        ...cells.map((words, index) => make("td", {class: index < 2 ? "number" : ""}, words)),
      );
    const body = this.points.map(point =>
      line(
        this.nameOf(point.row),
        WRITE[this.up.kind](point.y),
        WRITE[this.across.kind](point.x),
        this.corners.includes(point) ? "yes" : "",
      ),
    );
    const failed = this.failures().flatMap(group =>
      group.stops.map(({row, expected}) =>
        line(
          this.nameOf(row),
          row.outcome,
          known(expected) ? `${WRITE[this.across.kind](expected)} expected` : "not known",
          "",
        ),
      ),
    );
    this.table.replaceChildren(
      make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body, ...failed)),
    );
  }

  // Failures by model and outcome: a row of the strip each.
  failures() {
    const groups = new Map();
    for (const row of this.rows.filter(row => row.outcome && this.isShown(row))) {
      const key = `${row.model} ${row.word}`;
      if (!groups.has(key)) groups.set(key, {model: this.data.models[row.model], word: row.word, stops: []});
      const expected = row.expected[this.state.across];
      groups
        .get(key)
        .stops.push({row, expected: known(expected) && (expected > 0 || !this.isLog("Across")) ? expected : null});
    }
    return [...groups.values()].sort((a, b) => (a.model.name < b.model.name ? -1 : 1));
  }

  async draw() {
    this.drawn = true;
    if (!(await library())) return this.plot.replaceChildren(UNDRAWN);
    const {stops, traces, layout} = drawingOf(this);
    this.stops = stops;
    await Plotly.react(this.plot, traces, layout, {displayModeBar: false, responsive: true, doubleClick: "reset"});
    this.listen();
    this.host.dataset.drawn = `${this.up.name} ${this.across.name}`;
    return true;
  }

  listen() {
    if (this.listening) return;
    this.listening = true;
    this.plot.on("plotly_hover", event => this.pinned || this.show(event.points[0].customdata));
    this.plot.on("plotly_unhover", () => this.pinned || this.hide());
    this.plot.on("plotly_click", event => {
      this.show(event.points[0].customdata);
      this.pinned = true;
    });
    this.plot.on("plotly_relayout", change => {
      if (!Object.keys(change).some(key => /range|autosize/.test(key))) return;
      this.hide();
      if (Object.keys(change).every(key => key === "autosize")) return;
      const {xaxis, yaxis} = this.plot.layout;
      const update = {};
      for (const [name, which, range] of [
        ["xaxis", "Across", xaxis.range],
        ["yaxis", "Up", yaxis.range],
      ])
        for (const [key, value] of Object.entries(ticksFor(this, which, range))) update[`${name}.${key}`] = value;
      Plotly.relayout(this.plot, update);
    });
    document.addEventListener("click", event => {
      if (this.pinned && !this.frame.contains(event.target)) this.hide();
    });
  }

  key(event) {
    const steps = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};
    if (!this.stops?.length || event.target !== this.frame) return event.key === "Escape" ? this.hide() : undefined;
    const last = this.stops.length - 1;
    const next =
      {Home: 0, End: last}[event.key] ??
      (event.key in steps ? Math.min(last, Math.max(0, this.stop + steps[event.key])) : null);
    if (next !== null) {
      this.show(next);
      this.said.textContent = this.tip.textContent;
      event.preventDefault();
    }
    if (event.key === "Escape") this.hide();
    if (event.key === "Enter" && this.stop >= 0) location.hash = `#${this.stops[this.stop].row.runs[0]}`;
    return undefined;
  }

  show(place) {
    const point = this.stops[place];
    if (!point) return;
    this.stop = place;
    const {row} = point;
    const lines = linesOf(this, point);
    const links = row.runs.map((run, index) =>
      make("a", {href: `#${run}`}, row.runs.length > 1 ? `run ${index + 1}` : "its run"),
    );
    this.tip.replaceChildren(
      make("strong", {}, `${this.nameOf(row)} `),
      ...[...lines, row.settings.join(", ")].filter(Boolean).map(words => make("div", {}, `${words} `)),
      make("div", {class: "links"}, ...links),
    );
    const {xaxis, yaxis, yaxis2} = this.plot._fullLayout;
    const upright = point.isFailure ? yaxis2 : yaxis;
    const [left, top] = [xaxis._offset + xaxis.d2p(point.x), upright._offset + upright.d2p(point.y)];
    this.tip.hidden = this.ring.hidden = false;
    Object.assign(this.ring.style, {left: `${left}px`, top: `${top}px`});
    const width = this.frame.clientWidth,
      own = this.tip.offsetWidth;
    const x =
      left + 16 + own <= width ? left + 16 : left - 16 - own >= 0 ? left - 16 - own : Math.max(0, (width - own) / 2);
    Object.assign(this.tip.style, {
      left: `${x}px`,
      top: `${Math.max(0, Math.min(top + 12, this.frame.clientHeight - this.tip.offsetHeight))}px`,
    });
  }

  hide() {
    this.tip.hidden = this.ring.hidden = true;
    this.pinned = false;
    this.stop = -1;
  }

  async save() {
    if (!(await this.draw())) return;
    const address = await Plotly.toImage(this.plot, {
      format: "svg",
      width: this.plot.clientWidth,
      height: this.plot.clientHeight,
    });
    make("a", {href: address, download: `${this.host.dataset.chart}.svg`}).click();
  }
}

const charts = [...document.querySelectorAll("[data-chart]")].map(host => new Chart(host));
const watcher = new IntersectionObserver(
  entries => {
    for (const entry of entries)
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        charts.find(chart => chart.host === entry.target).draw();
      }
  },
  {rootMargin: "400px"},
);
charts.forEach(chart => watcher.observe(chart.host));
document.addEventListener("recscale-theme", () => charts.forEach(chart => chart.drawn && chart.draw()));
