"use strict";
// Texts are a model's: they reach the page as textContent only, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const meanings = new Map(data.metrics.map((metric) => [metric.name, metric]));
const byId = (id) => document.getElementById(id);

/** An element with a class, and with texts or elements in it. */
function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

function brief(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e3) return Math.round(value).toLocaleString("en");
  return size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  const [h, m, s] = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
}

// --- what run -----------------------------------------------------------------------------------

const STATUS = { unfinished: "not finished: running, or killed" };

function showRun(run) {
  byId("bar-name").textContent = byId("run-name").textContent = run.name;
  byId("status").textContent = STATUS[run.status] ?? run.status;
  byId("status").classList.add(run.status);
  for (const [group, choice] of Object.entries(run.choices)) {
    byId("choices").append(make("span", "", `${group} `, make("b", "", choice)));
  }
  if (run.model !== run.choices.model) {
    byId("choices").append(make("span", "", "model.path ", make("b", "", brief(run.model))));
  }
  for (const [what, ends] of run.headlines) {
    const value = make("div", "value", ends.at(-1));
    if (ends.length > 1) value.prepend(make("span", "before", `${ends[0]} → `));
    byId("cards").append(make("div", "card headline", value, make("div", "what", what)));
  }
  const of = run.num_rounds > run.rounds ? ` of ${brief(run.num_rounds)}` : "";
  const cards = [
    [brief(run.rounds) + of, "rounds"],
    [duration(run.duration_s), "in all"],
    [brief(run.counts.preferences), "preferences trained on"],
    [brief(run.counts.completions), "completions"],
  ];
  const speed = run.throughput.tokens_per_s;
  if (speed) cards.push([brief(Math.round(speed)), "tokens per second, online"]);
  for (const [value, what] of cards) {
    byId("cards").append(make("div", "card", make("div", "value", value), make("div", "what", what)));
  }
  const merged = data.rounds_per_point;
  byId("made").textContent = `As of ${run.made}. Drag over a plot to zoom all of them, double-click to `
    + "see the whole run again. Thin lines are single rounds, bold lines averages over nearby ones."
    + (merged > 1 ? ` The run is long: each point is the mean of ${merged} rounds.` : "");
}

// --- plots --------------------------------------------------------------------------------------

const LOWEST = 1e-9; // A logarithmic axis has no 0.
const FEW = 10; // Points that are marked, and not smoothed.
const dark = matchMedia("(prefers-color-scheme: dark)");
const view = { smoothing: 0.1, range: null };
const plots = [];

/** Weighted means over that share of the points, around each; at the ends, over fewer. */
function smoothed(values, share) {
  const reach = Math.floor((values.length * share) / 2);
  return values.map((_, at) => {
    let sum = 0, weights = 0;
    for (let i = Math.max(0, at - reach); i <= Math.min(values.length - 1, at + reach); i++) {
      const weight = reach + 1 - Math.abs(i - at);
      sum += weight * values[i];
      weights += weight;
    }
    return sum / weights;
  });
}

function visibleColor(color, alpha = 1) {
  const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const [r, g, b] = dark.matches ? parts.map((part) => Math.round(part + (255 - part) * 0.3)) : parts;
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

function hoverFormat(plot) {
  return plot.scale === "share" ? ".1%" : plot.axis === "bytes" ? ".3s" : ".4~g";
}

function lineTraces(plot) {
  return plot.lines.flatMap((line) => {
    const { rounds, values } = data.curves[line.metric];
    const shown = plot.scale === "log" ? values.map((value) => Math.max(value, LOWEST)) : values;
    const few = values.length < FEW;
    const isSmooth = !few && view.smoothing > 0 && !line.metric.startsWith("eval/");
    const bold = {
      x: rounds, y: isSmooth ? smoothed(shown, view.smoothing) : shown, customdata: values,
      name: line.label, mode: few || line.metric.startsWith("eval/") ? "lines+markers" : "lines",
      line: { color: visibleColor(line.color), width: 2 }, marker: { size: 5 },
      hovertemplate: `%{customdata:${hoverFormat(plot)}}`, legendgroup: line.metric,
    };
    const thin = {
      x: rounds, y: shown, mode: "lines", line: { color: visibleColor(line.color, 0.3), width: 1 },
      hoverinfo: "skip", showlegend: false, legendgroup: line.metric,
    };
    return isSmooth ? [thin, bold] : [bold];
  });
}

function bandTraces(plot) {
  if (!plot.band) return [];
  const [low, high] = plot.band.map((metric) => data.curves[metric]);
  const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  return [
    { ...edge, x: low.rounds, y: low.values },
    { ...edge, x: high.rounds, y: high.values, fill: "tonexty",
      fillcolor: visibleColor(plot.lines[0].color, 0.15) },
  ];
}

/** Areas on top of each other; where a metric is not known, it has added nothing. */
function stackTraces(plot) {
  const during = plot.lines.map(({ metric }) =>
    new Map(data.curves[metric].rounds.map((round, at) => [round, data.curves[metric].values[at]])));
  const rounds = [...new Set(during.flatMap((known) => [...known.keys()]))].filter((x) => x > 0);
  rounds.sort((a, b) => a - b);
  return plot.lines.flatMap((line, at) => {
    const values = rounds.map((round) => during[at].get(round) ?? 0);
    if (!values.some((value) => value > 0)) return [];
    const few = values.length < FEW;
    return [{
      x: rounds, y: few ? values : smoothed(values, view.smoothing), customdata: values,
      name: line.label, mode: few ? "lines+markers" : "lines", marker: { size: 3 }, stackgroup: "all",
      line: { width: 0.5, color: visibleColor(line.color) },
      fillcolor: visibleColor(line.color, 0.8), hovertemplate: `%{customdata:${hoverFormat(plot)}}`,
    }];
  });
}

function yAxis(plot, style) {
  const axis = { gridcolor: style("--grid"), zerolinecolor: style("--line"), automargin: true, fixedrange: true, exponentformat: "power" };
  const isZero = plot.lines.every((line) => data.curves[line.metric].values.every((value) => value === 0));
  const values = plot.lines.flatMap((line) => data.curves[line.metric].values);
  const same = values[0] > 0 && values.every((value) => value === values[0]);
  if (same && plot.scale !== "log") axis.range = [0, 2 * values[0]];  // else it would be -1 to 1 around it
  if (isZero && plot.scale !== "log") axis.range = [0, plot.scale === "share" ? 0.1 : 1];
  if (plot.scale === "share") return { ...axis, tickformat: ",.3~%", rangemode: "tozero" };
  if (plot.axis === "bytes") return { ...axis, tickformat: ".3~s", rangemode: "tozero" };
  if (plot.scale !== "log") return { ...axis, rangemode: plot.stacked ? "tozero" : "normal" };
  const highest = Math.max(LOWEST, plot.limit ?? 0, ...values);
  const lowest = Math.min(plot.limit ?? Infinity, ...values.map((value) => Math.max(value, LOWEST)));
  return { ...axis, type: "log", dtick: Math.max(1, Math.round(Math.log10(highest / lowest) / 4)),
    range: [Math.log10(lowest) - 0.5, Math.log10(highest) + 0.6] };
}

function limitMarks(plot, style) {
  if (!plot.limit) return {};
  const color = style("--bad");
  return {
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: plot.limit, y1: plot.limit,
      line: { color, width: 1.5, dash: "dash" } }],
    annotations: [{ xref: "paper", x: 0, xanchor: "left", y: Math.log10(plot.limit), yanchor: "bottom",
      text: "the run stops above this", showarrow: false, font: { color, size: 11 } }],
  };
}

function layout(plot, style) {
  const last = Math.max(1, data.run.rounds);
  const x = {
    gridcolor: style("--grid"), zeroline: false, title: { text: "rounds finished", font: { size: 11 }, standoff: 6 },
    range: view.range ?? [-0.03 * last, 1.03 * last], nticks: 8, hoverformat: ",d",
  };
  if (last < 8) x.dtick = 1;
  return {
    margin: { l: 48, r: 8, t: 28, b: 36 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style("--quiet") },
    // A finger that scrolls the page would zoom.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hovermode: "x unified", hoverlabel: { bgcolor: style("--card"), bordercolor: style("--line"), font: { color: style("--ink") } },
    legend: { orientation: "h", traceorder: "normal", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--quiet"), activecolor: style("--accent") },
    showlegend: plot.lines.length > 1, xaxis: x, yaxis: yAxis(plot, style), ...limitMarks(plot, style),
  };
}

function draw(plot) {
  const styles = getComputedStyle(document.documentElement);
  const traces = plot.spec.stacked ? stackTraces(plot.spec) : [...bandTraces(plot.spec), ...lineTraces(plot.spec)];
  const look = layout(plot.spec, (name) => styles.getPropertyValue(name).trim());
  Plotly.react(plot.drawing, traces, look, {
    responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: plot.spec.title },
  });
  if (plot.isStale === null) plot.drawing.on("plotly_relayout", followZoom);
  plot.isStale = false;
}

function followZoom(change) {
  if ("xaxis.range[0]" in change) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
  else if (change["xaxis.autorange"]) zoom(null);
}

function zoom(range) {
  view.range = range;
  byId("whole").disabled = range === null;
  redraw();
}

/** Plots that are out of sight are drawn when they come into it. */
function redraw() {
  for (const plot of plots) {
    if (plot.isStale === null) continue;
    plot.isStale = true;
    if (plot.isVisible) draw(plot);
  }
}

const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const plot = plots.find((one) => one.drawing === entry.target);
    plot.isVisible = entry.isIntersecting;
    if (plot.isVisible && plot.isStale !== false) draw(plot);
  }
}, { rootMargin: "300px" });

function meaningsOf(metrics) {
  const list = make("dl", "meanings");
  for (const metric of metrics) {
    const text = meanings.get(metric).meaning;
    list.append(make("div", "", make("dt", "", make("code", "", metric)), " ", make("dd", "", text)));
  }
  if (metrics.length <= 3) return list;
  return make("details", "", make("summary", "", `What the ${metrics.length} metrics mean`), list);
}

function showSection(section) {
  const id = section.title.toLowerCase().replaceAll(" ", "-");
  const grid = make("div", "grid");
  for (const spec of section.plots) {
    const drawing = make("div", "drawing");
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", `Plot: ${spec.title}, ${spec.axis}, over rounds`);
    const metrics = [...spec.lines.map((line) => line.metric), ...(spec.band ?? [])];
    const axis = make("p", "axis", spec.axis);
    grid.append(make("figure", spec.stacked ? "plot broad" : "plot", make("h3", "", spec.title), axis,
      drawing, meaningsOf(metrics)));
    plots.push({ spec, drawing, isVisible: false, isStale: null }); // null: never drawn
    inSight.observe(drawing);
  }
  const heading = make("h2", "", section.title);
  heading.id = id;
  byId("plots").append(make("section", "", heading, grid));
  addLink(section.title, id);
}

function addLink(title, id) {
  const link = make("a", "", title);
  link.href = `#${id}`;
  byId("contents").append(link);
}

// --- preferences --------------------------------------------------------------------------------

const PAGE = 20;
const pairs = data.preferences.rows;
let numShown = PAGE;

function commonLength(a, b) {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  // Not between the halves of one character.
  return length && /[\uD800-\uDBFF]/.test(a[length - 1]) ? length - 1 : length;
}

/** A text whose beginning, which the other side has too, is pale. */
function sideText(text, common) {
  if (text === null) return make("span", "missing", "there is no such answer");
  if (text === "") return make("span", "missing", "empty");
  return make("pre", "", make("span", "common", text.slice(0, common)), text.slice(common));
}

function showSide(pair, side, common) {
  const facts = [
    pair[`${side}_score`] === null ? "" : `score ${brief(pair[`${side}_score`])}`,
    pair[`${side}_tokens`] === null ? "" : `${brief(pair[`${side}_tokens`])} tokens`,
    pair[`${side}_truncated`] ? "cut off" : "",
    pair[`${side}_policy_version`] === null ? "" : `policy v${pair[`${side}_policy_version`]}`,
  ].filter(Boolean).join(" · ");
  const heading = make("h4", "", make("b", "", side), " ", make("span", "", facts));
  return make("div", `side ${side}`, heading, sideText(pair[side], common));
}

function showPair(pair) {
  const kept = pair.dropped === null;
  const facts = [
    `round ${pair.round}`,
    pair.margin === null ? "" : `margin ${brief(pair.margin)}`,
    pair.win_prob === null ? "" : `win prob. ${brief(pair.win_prob)}`,
    pair.weight === null || pair.weight === 1 ? "" : `weight ${brief(pair.weight)}`,
    `judge ${pair.judge}`,
  ].filter(Boolean).map((fact) => make("span", "", fact));
  const tag = make("span", kept ? "tag kept" : "tag", data.outcomes[pair.dropped ?? ""] ?? `dropped: ${pair.dropped}`);
  const head = make("header", "", tag, make("b", "", pair.prompt_id), ...facts);
  const prompt = make("div", "prompt", make("h4", "", "prompt"), make("pre", "", pair.prompt));
  if (pair.prefix) prompt.append(make("h4", "", "both answers begin"), make("pre", "common", pair.prefix));
  const common = commonLength(pair.chosen ?? "", pair.rejected ?? "");
  const sides = make("div", "sides", showSide(pair, "chosen", common), showSide(pair, "rejected", common));
  return make("article", kept ? "pair kept" : "pair", head, prompt, sides);
}

function matching() {
  const [round, outcome, text] = ["round", "outcome", "text"].map((id) => byId(id).value);
  const wanted = text.toLowerCase();
  const texts = (pair) => [pair.prompt_id, pair.prompt, pair.prefix, pair.chosen, pair.rejected];
  return pairs.filter((pair) =>
    (round === "all" || String(pair.round) === round)
    && (outcome === "all" || (pair.dropped ?? "") === outcome)
    && (!wanted || texts(pair).some((one) => one?.toLowerCase().includes(wanted))));
}

function showPairs() {
  const found = matching();
  byId("pairs").replaceChildren(...found.slice(0, numShown).map(showPair));
  byId("matching").textContent = `${brief(found.length)} match`;
  byId("more").hidden = found.length <= numShown;
}

function showPreferences() {
  const { num_preferences: total } = data.preferences;
  byId("sampled").textContent = total > pairs.length
    ? `${brief(pairs.length)} of ${brief(total)}, spread evenly over the rounds and over what became of them. `
    : `All ${brief(total)}. `;
  byId("sampled").append("What both sides begin with is pale.");
  const option = (value, text) => { const one = make("option", "", text); one.value = value; return one; };
  const rounds = [...new Set(pairs.map((pair) => pair.round))];
  byId("round").append(option("all", "all"), ...rounds.map((round) => option(round, round)));
  const counts = new Map();
  for (const { dropped } of pairs) counts.set(dropped ?? "", (counts.get(dropped ?? "") ?? 0) + 1);
  const label = (reason) => data.outcomes[reason] ?? `dropped: ${reason}`;
  byId("outcome").append(option("all", "all"),
    ...[...counts].map(([reason, count]) => option(reason, `${label(reason)} (${count})`)));
  const filter = () => { numShown = PAGE; showPairs(); };
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => { numShown += PAGE; showPairs(); });
  showPairs();
}

// --- numbers and configuration ------------------------------------------------------------------

function showMetrics() {
  byId("num-metrics").textContent = `All ${data.metrics.length} metrics: first, last, lowest, highest`;
  for (const metric of data.metrics) {
    const lost = metric.not_finite ? ` Not finite ${brief(metric.not_finite)} times.` : "";
    const meaning = metric.meaning + (metric.unit ? ` (${metric.unit})` : "") + lost;
    const numbers = ["first", "last", "lowest", "highest"].map((name) => make("td", "number", brief(metric[name])));
    byId("metric-rows").append(make("tr", "", make("td", "", make("code", "", metric.name)), make("td", "", meaning), ...numbers));
  }
}

function showSettings() {
  const row = (key) => make("div", "", make("dt", "", key),
    make("dd", "", typeof data.settings[key] === "string" ? data.settings[key] : JSON.stringify(data.settings[key])));
  byId("changed").append(...data.changed.map(row));
  const keys = Object.keys(data.settings);
  byId("settings").append(...keys.map(row));
  byId("num-settings").textContent = `All ${keys.length} settings`;
}

// --- the page -----------------------------------------------------------------------------------

showRun(data.run);
data.sections.forEach(showSection);
showPreferences();
showMetrics();
showSettings();
for (const [title, id] of [["Samples", "samples"], ["Numbers", "metrics"], ["Configuration", "configuration"]]) {
  addLink(title, id);
}
byId("smoothing").addEventListener("input", (event) => { view.smoothing = Number(event.target.value); redraw(); });
byId("whole").addEventListener("click", () => zoom(null));
dark.addEventListener("change", redraw);
addEventListener("beforeprint", () => plots.filter((plot) => plot.isStale !== false).forEach(draw));
