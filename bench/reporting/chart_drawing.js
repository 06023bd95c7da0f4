// What plotly.js is given: marks, axes, the strip of failures; all of it from the points of a chart.
const STRIP_ROW = 18,
  PLOT_HEIGHT = 400,
  EDGE = 0.985,
  LEAST_DECADES = 0.95;
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const known = value => value !== null && value !== undefined;

// Plotly reads some HTML in its texts; what comes from records shall be letters.
const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s+/g, " ");
const clipped = (text, limit) => (text.length > limit ? `${text.slice(0, limit - 1)}…` : text);

const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();

// The ends of an axis around its values, as a logarithm where the axis is one.
function rangeOf(values, isLog) {
  if (!values.length) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (!isLog) {
    const margin = 0.08 * (high - low) || 0.08 * Math.abs(high) || 0.1;
    return [low - margin, high + margin];
  }
  const decades = Math.log10(high / low);
  const room = Math.max(0.07 * decades, 0.12, (LEAST_DECADES - decades) / 2);
  return [Math.log10(low) - room, Math.log10(high) + room];
}

// The band of the frontier, drawn on to the dear end of the axis.
function frontierTraces(chart, end) {
  if (!chart.corners.length) return [];
  const [xs, ys] = [[chart.corners[0].x], [chart.corners[0].y]];
  chart.corners.slice(1).forEach((corner, index) => {
    xs.push(corner.x, corner.x);
    ys.push(chart.corners[index].y, corner.y);
  });
  xs.push(end);
  ys.push(ys[ys.length - 1]);
  return [
    {
      type: "scatter",
      mode: "lines",
      x: xs,
      y: ys,
      hoverinfo: "skip",
      showlegend: false,
      line: {color: "rgba(115,123,135,.25)", width: 7},
    },
  ];
}

// A line over the best of each size, ordered by parameters where they are known, and the others as fainter marks.
function modelTraces(chart) {
  const parameters = chart.place("parameters");
  const merit = point => (chart.up.rises ? -point.y : point.y);
  return chart.data.models.flatMap((model, index) => {
    const own = chart.points.filter(({row}) => row.model === index);
    const ordered = chart.up.isMetric ? [...own].sort((a, b) => merit(a) - merit(b)) : own;
    const best = new Map();
    ordered.forEach(point => best.has(point.row.size) || best.set(point.row.size, point));
    const along = point => (parameters < 0 ? null : point.row.values[parameters]) ?? point.x;
    const line = [...best.values()].sort((a, b) => along(a) - along(b) || a.x - b.x);
    const others = own.filter(point => !line.includes(point));
    const trace = (points, more) => ({
      type: "scatter",
      x: points.map(({x}) => x),
      y: points.map(({y}) => y),
      keys: points,
      hoverinfo: "none",
      showlegend: false,
      name: String(index),
      ...more,
    });
    const errors = line.map(({row}) => (chart.up.isMetric && row.errors[chart.state.up]) || 0);
    const found = [];
    if (others.length)
      found.push(
        trace(others, {mode: "markers", marker: {symbol: model.symbol, size: 6, color: model.colour, opacity: 0.4}}),
      );
    if (line.length)
      found.push(
        trace(line, {
          mode: "lines+markers",
          line: {color: model.colour, dash: model.dash, width: 1.8},
          marker: {symbol: model.symbol, size: 9, color: model.colour},
          error_y: {
            type: "data",
            array: errors,
            visible: errors.some(Boolean),
            color: model.colour,
            thickness: 1,
            width: 0,
          },
        }),
      );
    return found;
  });
}

function axisOf(chart, which, range) {
  const [measure, isLog] = [which === "Up" ? chart.up : chart.across, chart.isLog(which)];
  const hint = measure.rises === measure.isMetric ? "" : measure.rises ? " (more is better)" : " (less is better)";
  const found = {
    type: isLog ? "log" : "linear",
    range,
    title: {text: plain(measure.label + hint), standoff: 8},
    gridcolor: "rgba(115,123,135,.2)",
    zeroline: false,
    linecolor: ink(),
    tickcolor: ink(),
    automargin: true,
    tickangle: 0,
  };
  return {...found, ...ticksFor(chart, which, range)};
}

function ticksFor(chart, which, range) {
  const kind = (which === "Up" ? chart.up : chart.across).kind;
  if (!chart.isLog(which))
    return kind === "score" ? {tickmode: "auto", nticks: 7} : {tickmode: "auto", nticks: 6, tickformat: "~s"};
  const values = ticksOf(10 ** range[0], 10 ** range[1], kind);
  return {tickmode: "array", tickvals: values, ticktext: values.map(WRITE_TICK[kind])};
}

const stripOf = failures => (failures.length ? failures.length * STRIP_ROW + 10 : 0);
const heightOf = failures => PLOT_HEIGHT + stripOf(failures) + 70;

function layoutOf(chart, range, failures, fraction) {
  const strip = stripOf(failures);
  const split = strip / (strip + PLOT_HEIGHT);
  const spread = rangeOf(
    chart.points.map(({y}) => y),
    chart.isLog("Up"),
  );
  const annotations = failures.map((group, index) => {
    const places = group.points.map(({x}) => x).sort((a, b) => a - b);
    const isLeft = fraction(places[places.length - 1]) < 0.55;
    const x = isLeft ? places[places.length - 1] : places[0];
    return {
      x: chart.isLog("Across") ? Math.log10(x) : x,
      y: index,
      xref: "x",
      yref: "y2",
      text: plain(clipped(`${group.model.name} ${group.word}`, 34)),
      showarrow: false,
      xanchor: isLeft ? "left" : "right",
      xshift: isLeft ? 8 : -8,
      font: {color: ink(), size: 12}, // many of the models' colours are too light to read
    };
  });
  if (!chart.points.length)
    annotations.push({
      x: 0.5,
      y: (1 + split) / 2,
      xref: "paper",
      yref: "paper",
      showarrow: false,
      text: "no run that is shown has both figures",
    });
  const found = {
    height: heightOf(failures),
    margin: {l: 12, r: 14, t: 12, b: 12},
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: {family: FONT, size: 13, color: ink()},
    hovermode: "closest",
    hoverdistance: 24,
    showlegend: false,
    annotations,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: {...axisOf(chart, "Across", range), anchor: strip ? "y2" : "y", showline: true},
    yaxis: {...axisOf(chart, "Up", spread), domain: [split, 1]},
  };
  if (strip) {
    found.yaxis2 = {
      domain: [0, split],
      range: [failures.length - 0.4, -0.8],
      showgrid: false,
      zeroline: false,
      showticklabels: false,
      fixedrange: true,
      anchor: "x",
    };
    found.shapes = [
      {
        type: "line",
        xref: "paper",
        yref: "paper",
        x0: 0,
        x1: 1,
        y0: split,
        y1: split,
        line: {color: ink(), width: 1, dash: "dot"},
      },
    ];
  }
  return found;
}

function failureTrace(group, index) {
  return {
    type: "scatter",
    mode: "markers",
    x: group.points.map(point => point.x),
    y: group.points.map(() => index),
    keys: group.points,
    yaxis: "y2",
    hoverinfo: "none",
    showlegend: false,
    cliponaxis: false,
    marker: {symbol: "x-thin", size: 8, line: {color: group.model.colour, width: 2}},
  };
}

// All that is drawn, and the stops: what can be pointed at, from left to right, failures last.
function drawingOf(chart) {
  const failures = chart.failures();
  const log = chart.isLog("Across");
  const range = rangeOf(
    [
      ...chart.points.map(({x}) => x),
      ...failures.flatMap(group => group.stops.map(stop => stop.expected).filter(known)),
    ],
    log,
  );
  const at = share => {
    const place = range[0] + share * (range[1] - range[0]);
    return log ? 10 ** place : place;
  };
  const edge = at(chart.across.rises ? 1 - EDGE : EDGE);
  const fraction = x => ((log ? Math.log10(x) : x) - range[0]) / (range[1] - range[0]);
  failures.forEach((group, index) => {
    group.points = group.stops.map(({row, expected}) => ({
      row,
      x: expected ?? edge,
      y: index,
      isFailure: true,
      isKnown: known(expected),
    }));
  });
  const stops = [
    ...[...chart.points].sort((a, b) => a.x - b.x || a.y - b.y),
    ...failures.flatMap(group => group.points),
  ];
  const places = new Map(stops.map((stop, place) => [stop, place]));
  const traces = [
    ...frontierTraces(chart, at(chart.across.rises ? 0 : 1)),
    ...modelTraces(chart),
    ...failures.map(failureTrace),
  ].map(({keys, ...trace}) => ({...trace, customdata: keys?.map(point => places.get(point))}));
  return {stops, traces, layout: layoutOf(chart, range, failures, fraction)};
}
