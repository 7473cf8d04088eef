// The samples as cards. Everything that came from outside is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);

const CHANGED = data.groups.changed;
const GLYPHS = {
  right_to_wrong: "✓→✗", wrong_to_right: "✗→✓", wrong_to_other_wrong: "✗→✗", right_to_other_right: "✓→✓",
  format_only: "≈", failed: "!", unchanged: "=",
};
const WORDS = Object.fromEntries(data.kinds.map((kind) => [kind.id, kind.label]));
Object.assign(WORDS, { unchanged: "same", changed: "Any change", other: "Other change", any: "All" });

const places = (place) => [...new Set(Object.values(data.counts).flatMap((rows) => rows.map((row) => row[place])))].sort();
const SLICES = { task: places(0), family: places(1) };

const share = (value) => (value >= 0.9995 ? "100" : value < 0.001 ? "<0.1" : (100 * value).toFixed(1));

/** The picture with a choice of whose kept tokens to draw. Returns [element, show(run, siteIndex)]. */
function pictureColumn(item, onShow) {
  if (item.picture === null) {
    const why = data.missing.stripped ? "Pictures were left out of this report." : item.pictures === 0
      ? "This question has no picture." : "The picture is not in this report.";
    return [make("div", { class: "picture none" }, make("p", {}, why)), () => {}];
  }
  const picture = data.pictures[item.picture];
  const small = Math.max(picture.w, picture.h) <= 160;
  const caption = make("p", { class: "caption" });
  const sites = make("div", { class: "sites", role: "group", "aria-label": "Kept tokens by layer" });
  const frames = make("div", { class: "frames" });

  /** One frame for each panel of tokens, all on the same picture. */
  function frame(panels, site) {
    frames.replaceChildren(...(panels || [null]).map((panel, place) => {
      const image = make("img", { src: picture.uri, alt: place ? "" : "The picture this question is about",
        class: small ? "small" : null, loading: "lazy", decoding: "async", width: picture.w, height: picture.h });
      const layer = svg("svg", { class: "tokens", "aria-hidden": "true" });
      if (panel) drawTokens(layer, picture, panel, site && site.cells[place]);
      const name = panel && panel.name ? make("span", { class: "several" }, panel.name) : null;
      const several = item.pictures > 1 ? make("span", { class: "several" }, `first of ${item.pictures} pictures`) : null;
      return make("div", { class: "frame" }, image, layer, name, several);
    }));
  }

  function show(run, chosen) {
    const answer = run === null ? null : item.answers[run];
    const found = (answer && answer.kept) || [];
    sites.replaceChildren();
    onShow(found.length ? run : null);
    if (!item.panels || !found.length) {
      frame(null, null);
      caption.replaceChildren(run === null || !answer || !item.panels ? "" : "All visual tokens kept.");
      return;
    }
    const site = found[Math.min(chosen, found.length - 1)];
    frame(answer.panels || item.panels, site);
    caption.replaceChildren(make("b", {}, bdi(data.runs[run].name)), ` ${site.caption} tokens`,
      site.beside ? `, with ${site.beside}` : "", site.merges ? "; outlined: merged from several" : "");
    if (found.length > 1) found.forEach((other, place) => sites.append(make("button", { type: "button", class: "chip",
      "aria-pressed": String(other === site), on: { click: () => show(run, place) } }, `layer ${other.layer}`)));
  }
  return [make("div", { class: "picture" }, frames, sites, caption), show];
}

function scoreMark(score) {
  if (score === null) return make("span", { class: "score" }, "–");
  const word = score >= 1 ? "✓" : score <= 0 ? "✗" : score.toFixed(2);
  return make("span", { class: `score ${score >= 1 ? "full" : score <= 0 ? "nil" : "part"}`, title: `score ${score}` }, word);
}

function kindPill(kind) {
  if (!kind) return "";
  const label = WORDS[kind] || kind;
  return make("span", { class: `pill ${kind}`, title: label }, make("span", { "aria-hidden": "true" }, GLYPHS[kind]), ` ${label}`);
}

function answerCell(answer) {
  if (answer.failure) return make("td", { class: "said" }, bdi(answer.failure, "failure"));
  const cell = make("td", { class: "said" });
  cell.append(answer.answer === null ? make("span", { class: "unread" }, "no answer could be read") : bdi(answer.answer, "answer"));
  const same = answer.answer !== null && answer.text.trim().toLowerCase() === answer.answer.toLowerCase();
  if (!same && answer.text) cell.append(bdi(answer.text, "raw"));
  if (answer.cut) cell.append(make("span", { class: "cut" }, "cut off at the token limit"));
  return cell;
}

function answersTable(item, show) {
  const body = make("tbody", {});
  const hasMargin = item.answers.some((answer) => answer && answer.margin !== undefined);
  item.answers.forEach((answer, run) => {
    const name = data.runs[run].name;
    if (!answer) return;
    const drawn = item.panels && item.picture !== null && answer.kept && answer.kept.length > 0;
    const label = drawn ? make("button", { type: "button", class: "eye", "aria-pressed": "false", title: "Draw the tokens this run kept",
      on: { click: (event) => show(event.currentTarget.getAttribute("aria-pressed") === "true" ? null : run, 99) } }, bdi(name)) : bdi(name);
    const row = make("tr", { class: `${answer.kind && answer.kind !== "unchanged" ? "moved " : ""}${answer.kind || "first"}`, "data-run": run },
      make("th", { scope: "row" }, label), answerCell(answer), make("td", {}, scoreMark(answer.score)),
      make("td", {}, kindPill(answer.kind)));
    if (hasMargin) row.append(make("td", { class: "num" }, answer.margin === undefined || answer.margin === null ? "–" : answer.margin.toFixed(2)));
    body.append(row);
  });
  const head = make("tr", {}, ...["Run", "Answer", "Score", "Against the original"].map((text) => make("th", { scope: "col" }, text)));
  if (hasMargin) head.append(make("th", { scope: "col", class: "num", title: "First token: log-probability of the best minus the second, in nats" }, "Margin"));
  return make("div", { class: "scroll" }, make("table", { class: "answers" }, make("thead", {}, head), body));
}

function goldLine(item) {
  const line = make("p", { class: "gold" }, make("span", { class: "label" }, "Reference"));
  item.gold.forEach(([text, number], place) => {
    if (place) line.append(", ");
    const index = item.form === "choice" ? "ABCDEFGHIJKLMNOPQRSTUVWXYZ".indexOf(text) : -1;
    line.append(bdi(text, "answer"), number > 1 ? ` ×${number}` : "");
    if (index >= 0 && text && item.choices[index] !== undefined) line.append(" ", bdi(item.choices[index], "muted"));
  });
  if (!item.gold.length) line.append("none");
  return line;
}

function candidates(item) {
  if (!item.top.length) return null;
  const list = make("ol", { class: "top" });
  for (const [token, probability] of item.top) {
    const bar = make("span", { class: "bar" });
    bar.style.inlineSize = `${Math.max(1, 100 * probability)}%`;
    list.append(make("li", {}, bdi(token === "" ? "(empty)" : token, "token"), make("span", { class: "track" }, bar), make("span", { class: "num" }, `${share(probability)} %`)));
  }
  return make("details", { class: "candidates", open: true }, make("summary", {}, "The original’s first token"), list);
}

function copyButton(text) {
  const button = make("button", { type: "button", class: "copy", title: "Copy the sample id" }, "Copy id");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = make("textarea", { readonly: true, class: "offscreen" });
      field.value = text;
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy id"; }, 1500);
  });
  return button;
}

/** One card. `run` is the run whose kept tokens are drawn at first, or null. */
function card(item, run) {
  const rows = [];
  const [picture, show] = pictureColumn(item, (shown) => {
    for (const row of rows) {
      const eye = row.querySelector(".eye");
      if (eye) eye.setAttribute("aria-pressed", String(Number(row.dataset.run) === shown));
    }
  });
  const table = answersTable(item, show);
  rows.push(...table.querySelectorAll("tbody tr"));
  const choices = item.choices.length ? make("ol", { class: "choices" }, ...item.choices.map((text) => make("li", {}, bdi(text)))) : null;
  const tags = make("p", { class: "tags" }, SLICES.family.length > 1 ? bdi(item.family, "tag") : null, bdi(item.task, "tag plain"),
    item.variant ? bdi(item.variant, "tag") : null, make("span", { class: "id" }, bdi(item.id), copyButton(item.id)));
  const bare = data.pictures.length === 0;
  const element = make("article", { class: bare ? "card bare" : "card", tabindex: "-1", "aria-label": `Sample ${item.id}` }, bare ? null : picture,
    make("div", { class: "body" }, tags, make("h3", {}, bdi(item.question)), choices, goldLine(item),
      make("div", { class: "evidence" }, table, candidates(item))));
  show(run, 99);
  element.showTokens = show;
  return element;
}
