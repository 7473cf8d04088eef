// Filters, keys and links around the cards.
const PAGE = 20;
const root = document.getElementById("gallery");
const state = { run: "", kind: "any", task: "", family: "", text: "", sort: "surprise", view: "cards", tokens: true };
let matching = [], drawn = 0, current = -1;

const kindsOf = (kind) => data.groups[kind] || [kind];
const runIndex = (name) => data.runs.findIndex((run, index) => index > 0 && run.name === name);

/** Samples with this filter in the whole comparison, whether or not they are on this page. */
function counted(filter) {
  let total = 0;
  for (const [task, family, kind, number] of data.counts[filter.run] || []) {
    if (kind === filter.kind && (!filter.task || task === filter.task) && (!filter.family || family === filter.family)) total += number;
  }
  return total;
}

function matches(item) {
  if ((state.task && item.task !== state.task) || (state.family && item.family !== state.family)) return false;
  const kinds = kindsOf(state.kind);
  const hit = item.answers.some((answer, index) => index > 0 && answer && kinds.includes(answer.kind)
    && (state.run ? data.runs[index].name === state.run : !data.runs[index].control));
  if (!hit) return false;
  if (!state.text) return true;
  const words = [item.id, item.question, ...item.choices, ...item.gold.map((gold) => gold[0]),
    ...item.answers.flatMap((answer) => (answer ? [answer.text, answer.answer || "", answer.failure || ""] : []))];
  return words.join("\n").toLowerCase().includes(state.text.toLowerCase());
}

const certainty = (item) => (item.answers[0].margin === undefined || item.answers[0].margin === null ? -1 : item.answers[0].margin);
const movedRuns = (item) => item.answers.filter((answer) => answer && CHANGED.includes(answer.kind)).length;
/** Whether any original tells how sure it was; logs of other tools do not. */
const KNOWN = data.items.some((item) => certainty(item) >= 0);
const SORTS = {
  surprise: (a, b) => certainty(b) - certainty(a),
  runs: (a, b) => movedRuns(b) - movedRuns(a) || certainty(b) - certainty(a),
  id: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
};

function chips(name, entries, hint) {
  const group = make("div", { class: `chips ${name}`, role: "group", "aria-label": hint });
  for (const [value, label, glyph] of entries) {
    group.append(make("button", { type: "button", class: `chip ${name === "kind" ? value : ""}`, "data-value": value, "aria-pressed": "false",
      on: { click: () => change({ [name]: value }) } },
    glyph ? make("span", { class: "glyph", "aria-hidden": "true" }, glyph) : null, bdi(label), make("span", { class: "count" })));
  }
  return group;
}

const parts = {};

function build() {
  const select = (name, label, options) => {
    const box = make("select", { id: `f-${name}`, on: { change: (event) => change({ [name]: event.target.value }) } },
      ...options.map(([value, text]) => make("option", { value }, text)));
    parts[name] = box;
    return make("label", { class: "field" }, make("span", {}, label), box);
  };
  const [tasks, families] = [SLICES.task, SLICES.family];
  const orders = [["surprise", "Most confident originals first"], ["runs", "Changed in most runs first"], ["id", "Sample id"]];
  parts.runChips = chips("run", [["", "Any run"], ...data.runs.slice(1).map((run) => [run.name, run.name])], "Run");
  parts.kindChips = chips("kind", [["any", "All"], ["changed", "Any change"], ...data.kinds.map((kind) => [kind.id, kind.label, GLYPHS[kind.id]])], "Kind of flip");
  parts.text = make("input", { type: "search", id: "f-text", placeholder: "question, answer, id", spellcheck: "false",
    on: { input: (event) => change({ text: event.target.value }, false) } });
  const fields = make("div", { class: "fields" });
  if (tasks.length > 1) fields.append(select("task", "Task", [["", "All tasks"], ...tasks.map((name) => [name, name])]));
  if (families.length > 1) fields.append(select("family", "Family", [["", "All families"], ...families.map((name) => [name, name])]));
  fields.append(make("label", { class: "field grow" }, make("span", {}, "Find"), parts.text),
    select("sort", "Order", KNOWN ? orders : orders.slice(1)),
    select("view", "Show", [["cards", "Cards"], ["matrix", "Matrix: sample × run"]]));
  if (data.items.some((item) => item.panels && item.picture !== null)) {
    parts.tokens = make("input", { type: "checkbox", id: "f-tokens", on: { change: (event) => change({ tokens: event.target.checked }) } });
    fields.append(make("label", { class: "check" }, parts.tokens, "Draw kept tokens"));
  }
  parts.status = make("p", { class: "status", role: "status" });
  parts.list = make("div", { class: "list" });
  parts.more = make("button", { type: "button", class: "more", on: { click: () => draw(PAGE) } }, "Show more");
  parts.keys = make("p", { class: "keys" }, make("kbd", {}, "j"), " ", make("kbd", {}, "k"), " next, previous · ",
    parts.tokens ? make("kbd", {}, "t") : null, parts.tokens ? " kept tokens · " : null, make("kbd", {}, "/"), " find");
  root.append(make("div", { class: "filters" }, data.runs.length > 2 ? parts.runChips : null, parts.kindChips, fields), make("div", { class: "line" }, parts.status, parts.keys), parts.list, parts.more);
}

function press(group, value, filterOf) {
  for (const button of group.children) {
    const own = button.dataset.value;
    button.setAttribute("aria-pressed", String(own === value));
    const number = counted(filterOf(own));
    button.querySelector(".count").textContent = number.toLocaleString("en");
    button.classList.toggle("empty", number === 0);
  }
}

function describe() {
  const total = counted(state);
  const what = state.kind === "any" ? "changed, reformatted or failed" : (WORDS[state.kind] || state.kind).toLowerCase();
  const status = [make("b", {}, `${total.toLocaleString("en")} ${total === 1 ? "sample" : "samples"}`), ` ${what}`];
  if (state.run) status.push(" in ", bdi(state.run));
  if (state.family) status.push(", ", bdi(state.family));
  if (state.task) status.push(", ", bdi(state.task));
  if (state.text) status.push(`; ${matching.length.toLocaleString("en")} of those on this page contain “`, bdi(state.text), "”");
  else if (matching.length < total) {
    status.push(`; this page holds ${matching.length.toLocaleString("en")} of them: up to ${data.limit} per run and kind${KNOWN ? ", the most confident originals of each family first" : ""}`);
  }
  status.push(".");
  if (data.missing.budget) status.push(" Some pictures were left out to keep the page small.");
  else if (data.missing.stripped) status.push(" Pictures were left out of this report.");
  parts.status.replaceChildren(...status);
}

function emptyNote() {
  const none = !Object.values(data.counts).some((rows) => rows.length);
  const text = data.runs.length < 2 ? "There is no run to compare yet." : none
    ? "No answer changed in any run. Nothing to look at: that is the best result there is." : "No sample matches these filters.";
  const note = make("div", { class: "empty" }, make("p", {}, text));
  if (!none && data.runs.length > 1) note.append(make("button", { type: "button", class: "chip", on: { click: () => change({ run: "", kind: "any", task: "", family: "", text: "" }) } }, "Clear all filters"));
  return note;
}

/** Whose tokens to draw at first: the filtered run, else the first run that changed this answer. */
function firstRun(item) {
  if (!state.tokens) return null;
  if (state.run) return runIndex(state.run);
  const index = item.answers.findIndex((answer) => answer && CHANGED.includes(answer.kind) && answer.kept && answer.kept.length);
  return index > 0 ? index : null;
}

function draw(number) {
  if (state.view === "matrix") return drawMatrix(number * 5);
  for (const item of matching.slice(drawn, drawn + number)) parts.list.append(card(item, firstRun(item)));
  drawn = Math.min(matching.length, drawn + number);
  parts.more.hidden = drawn >= matching.length;
  parts.more.textContent = `Show ${Math.min(PAGE, matching.length - drawn)} more of ${(matching.length - drawn).toLocaleString("en")}`;
  return undefined;
}

function drawMatrix(number) {
  if (!parts.matrix) {
    const head = make("tr", {}, ...["Sample", "Question", "Reference"].map((text) => make("th", { scope: "col" }, text)),
      ...data.runs.map((run) => make("th", { scope: "col" }, bdi(run.name))));
    parts.matrix = make("tbody", {});
    parts.list.append(make("div", { class: "scroll" }, make("table", { class: "matrix" }, make("thead", {}, head), parts.matrix)));
  }
  for (const item of matching.slice(drawn, drawn + number)) {
    const open = make("button", { type: "button", class: "open", on: { click: () => { change({ view: "cards" }, true); moveTo(matching.indexOf(item)); } } }, bdi(item.id));
    parts.matrix.append(make("tr", {}, make("th", { scope: "row" }, open), make("td", { class: "q" }, bdi(item.question)),
      make("td", {}, bdi(item.gold.map((gold) => gold[0]).join(", "))), ...item.answers.map((answer) => (answer
        ? make("td", { class: answer.kind || "first", title: answer.kind ? WORDS[answer.kind] : "original" },
          make("span", { class: "glyph" }, answer.kind && answer.kind !== "unchanged" ? GLYPHS[answer.kind] : ""), " ",
          bdi(answer.failure ? "failed" : answer.answer === null ? "unread" : answer.answer))
        : make("td", { class: "absent" }, "–")))));
  }
  drawn = Math.min(matching.length, drawn + number);
  parts.more.hidden = drawn >= matching.length;
  parts.more.textContent = `Show more of ${(matching.length - drawn).toLocaleString("en")}`;
}

function refresh() {
  press(parts.runChips, state.run, (run) => ({ ...state, run }));
  press(parts.kindChips, state.kind, (kind) => ({ ...state, kind }));
  for (const name of ["task", "family", "sort", "view"]) if (parts[name]) parts[name].value = state[name];
  if (parts.text.value !== state.text) parts.text.value = state.text;
  if (parts.tokens) parts.tokens.checked = state.tokens;
  matching = data.items.filter(matches).sort(SORTS[state.sort]);
  drawn = 0;
  current = -1;
  parts.matrix = null;
  parts.list.replaceChildren();
  describe();
  parts.keys.hidden = state.view === "matrix" || !matching.length;
  if (matching.length) draw(PAGE);
  else {
    parts.list.append(emptyNote());
    parts.more.hidden = true;
  }
}

/** Apply filters; the address follows, so that a view can be passed on. */
function change(filters, remember = true) {
  Object.assign(state, filters);
  refresh();
  if (!remember) return;
  const query = new URLSearchParams();
  for (const name of ["run", "kind", "task", "family"]) if (state[name]) query.set(name, state[name]);
  history.replaceState(null, "", `#${query.toString() || "samples"}`);
}

/** A link of the tables, such as #run=fastv-50&kind=right_to_wrong. */
function follow() {
  const address = location.hash.slice(1);
  if (!address.includes("=")) return;
  const query = new URLSearchParams(address);
  const filters = { run: "", kind: "any", task: "", family: "", text: "", view: "cards" };
  for (const name of ["run", "kind", "task", "family"]) filters[name] = query.get(name) || filters[name];
  if (!(filters.run in data.counts)) filters.run = "";
  if (!(filters.kind in WORDS)) filters.kind = "any";
  Object.assign(state, filters);
  refresh();
  document.getElementById("samples").scrollIntoView();
}

function moveTo(index) {
  if (index < 0 || index >= matching.length) return;
  while (drawn <= index) draw(PAGE);
  const cards = parts.list.querySelectorAll(".card");
  if (current >= 0 && cards[current]) cards[current].classList.remove("current");
  current = index;
  cards[index].classList.add("current");
  cards[index].focus({ preventScroll: true });
  cards[index].scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "j" && state.view === "cards") moveTo(current + 1);
  else if (event.key === "k" && state.view === "cards") moveTo(Math.max(0, current - 1));
  else if (event.key === "t" && parts.tokens) {
    state.tokens = !state.tokens;
    parts.tokens.checked = state.tokens;
    parts.list.querySelectorAll(".card").forEach((element, index) => element.showTokens(firstRun(matching[index]), 99));
  } else if (event.key === "/") {
    event.preventDefault();
    parts.text.focus();
  }
});
addEventListener("hashchange", follow);
// A sample without its own address bar entry still prints: open everything that folds.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((element) => { element.open = true; }));

build();
if (!KNOWN) state.sort = "id";
state.kind = counted({ run: "", kind: "right_to_wrong", task: "", family: "" }) ? "right_to_wrong" : "any";
refresh();
follow();
