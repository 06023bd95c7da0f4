// Numbers and words of the interactive figure, without a line about drawing: units, ticks, the frontier, the answer.
const PREFIXES = [
  [1e15, "P"],
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const DURATIONS = [
  [1e-3, 1e-6, "µs"],
  [1, 1e-3, "ms"],
  [120, 1, "s"],
  [7200, 60, "min"],
  [Infinity, 3600, "h"],
];
const ROUND_SECONDS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60, 600, 3600, 36000, 360000];
const Z_95 = 1.96;

const digits = value => String(Number(value.toPrecision(3)));

function scaled(value, unit) {
  const rounded = Number(value.toPrecision(3));
  const [scale, prefix] = PREFIXES.find(([limit]) => Math.abs(rounded) >= limit) || [1, ""];
  return `${digits(rounded / scale)} ${prefix}${unit}`.trimEnd();
}

const WRITE = {
  count: value => scaled(value, ""),
  size: value => scaled(value, "B"),
  energy: value => scaled(value, "J"),
  rate: value => `${value >= 100 ? Math.round(value).toLocaleString("en") : digits(value)} per s`,
  duration: value => {
    const [, unit, word] = DURATIONS.find(([limit]) => value < limit);
    return `${digits(value / unit)} ${word}`;
  },
  score: value => (Math.abs(value) < 10 ? value.toFixed(4) : Number(value.toPrecision(4)).toString()),
};
const WRITE_TICK = {
  ...WRITE,
  score: digits,
  rate: value => scaled(value, "/s"),
  duration: value => (value === 60 ? "1 min" : value === 3600 ? "1 h" : WRITE.duration(value)),
};

// Round numbers on a logarithmic axis: 3 to 7 of them, powers of ten if there are enough, else with 2 and 5 between.
function ticksOf(low, high, kind) {
  if (kind === "duration") {
    const found = ROUND_SECONDS.filter(value => low <= value && value <= high);
    if (found.length >= 3) return thinned(found);
  }
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const powers = Array.from({length: last - first + 1}, (_, i) => Number(`1e${first + i}`));
  const inside = value => low <= value && value <= high;
  const found = powers.filter(inside);
  if (found.length >= 3) return thinned(found);
  return powers.flatMap(power => [power, 2 * power, 5 * power]).filter(inside);
}

function thinned(values) {
  const step = Math.ceil(values.length / 7);
  return values.filter((_, index) => index % step === 0);
}

// The indices of points that no other beats in both, from the cheapest to the dearest; as frontier.py has it.
function frontierOf(points, across, up) {
  const cost = index => (across.rises ? -points[index][0] : points[index][0]);
  const merit = index => (up.rises ? points[index][1] : -points[index][1]);
  const order = points.map((_, index) => index).sort((a, b) => cost(a) - cost(b) || merit(b) - merit(a) || a - b);
  const found = [];
  let best = -Infinity,
    bestCost = NaN;
  for (const index of order) {
    if (merit(index) > best || (merit(index) === best && cost(index) === bestCost)) {
      [best, bestCost] = [merit(index), cost(index)];
      found.push(index);
    }
  }
  return found;
}

// The cheapest point within a share of the best, and the best: [index, index]; as smallest_within in frontier.py.
function smallestWithin(points, share, across, up) {
  const loss = index => (up.rises ? -points[index][1] : points[index][1]);
  const cost = index => (across.rises ? -points[index][0] : points[index][0]);
  const order = points.map((_, index) => index).sort((a, b) => cost(a) - cost(b) || loss(a) - loss(b) || a - b);
  if (!order.length) return null;
  const best = order.reduce((a, b) => (loss(b) < loss(a) ? b : a));
  const bound = loss(best) + share * Math.abs(loss(best)) + 1e-12;
  return [order.find(index => loss(index) <= bound), best];
}

// What is wanted of the horizontal axis, in words: the smallest, the fastest, the best.
function superlative(measure) {
  if (measure.isMetric) return `the best in ${measure.name}`;
  if (measure.rises) return `the one with the most ${measure.label}`;
  return {count: "the smallest", size: "the smallest", duration: "the fastest", energy: "the thriftiest"}[measure.kind];
}

function answer(chart, found, share, points) {
  const {across, up} = chart;
  if (!found) return "No run that is shown has both of these figures.";
  const [close, best] = found.map(index => points[index]);
  const words = point =>
    `${chart.nameOf(point.row)} with ${up.label} ${WRITE[up.kind](point[1])}` +
    ` and ${WRITE[across.kind](point[0])}${across.kind === "count" ? ` ${across.label}` : ""}`;
  const top = `The ${up.isMetric ? "best" : up.rises ? "most" : "least"} ${up.label} is that of ${words(best)}.`;
  if (close === best) return `${top} Nothing else within ${share} % of it is better in ${across.label}.`;
  const factor = across.rises ? close[0] / best[0] : best[0] / close[0];
  const less =
    factor >= 1.05 && Number.isFinite(factor) ? `: ${digits(factor)} times ${across.rises ? "more" : "less"}` : "";
  return `${top} Within ${share} % of it, ${superlative(across)} is ${words(close)}${less}.`;
}

function written(measure, value, error) {
  const found = WRITE[measure.kind](value);
  if (!measure.isMetric || !error) return found;
  const [low, high] = [value - Z_95 * error, value + Z_95 * error].map(WRITE.score);
  return `${found} (95 % interval ${low} to ${high})`;
}

// What is said of a point: both of its figures and whether it is on the frontier; of a failure, why and where.
function linesOf(chart, {row, x, y, isFailure, isKnown}) {
  const {up, across, state} = chart;
  if (isFailure) {
    const place = isKnown ? `${WRITE[across.kind](x)} expected` : "not known, so it stands at the edge";
    return [row.outcome, row.reason, `${across.label}: ${place}`];
  }
  return [
    `${up.label}: ${written(up, y, row.errors[state.up])}`,
    `${across.label}: ${written(across, x, row.errors[state.across])}`,
    chart.corners.some(corner => corner.row === row) ? "on the frontier" : "",
  ];
}
