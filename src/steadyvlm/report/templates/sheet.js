// The stages of every method, drawn on the pictures as the model saw them.
const data = JSON.parse(document.getElementById("data").textContent);

/** The newlines behind the rows of a panel, as a narrow column. */
function newlineColumn(states) {
  const column = svg("svg", { class: "newlines", viewBox: `0 0 1 ${states.length}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  states.forEach((state, row) => column.append(svg("rect", { class: state < 0 ? "gone" : state > 0 ? "several" : "extra",
    x: 0, y: row + 0.1, width: 1, height: 0.8 })));
  return column;
}

/** The CLS row of every tile; filled when it is left, with its count when others were merged into it. */
function clsStrip(cls) {
  const strip = make("p", { class: "cls" }, "CLS ");
  for (const merged of cls) {
    const name = merged === null ? "gone" : merged > 0 ? "several" : "extra";
    strip.append(make("span", { class: name, title: merged === null ? "dropped" : "kept" }, merged ? String(merged) : ""));
  }
  return strip;
}

for (const figure of document.querySelectorAll("figure")) {
  const row = data.rows[Number(figure.dataset.row)], stage = row.stages[Number(figure.dataset.stage)];
  const view = data.views[row.view];
  const frames = make("div", { class: "frames" });
  view.panels.forEach((panel, place) => {
    const picture = data.pictures[view.first + place];
    const small = Math.max(picture.w, picture.h) <= 160;
    const image = make("img", { src: picture.uri, class: small ? "small" : null, width: picture.w, height: picture.h,
      alt: `${panel.name || "The picture"}, ${stage.caption}` });
    const layer = svg("svg", { class: "tokens", "aria-hidden": "true" });
    drawTokens(layer, picture, panel, stage.cells[place]);
    const states = stage.newlines[place];
    frames.append(make("div", { class: "panel" }, make("div", { class: "frame" }, image, layer),
      states.length ? newlineColumn(states) : null));
  });
  figure.append(frames);
  if (stage.cls.length) figure.append(clsStrip(stage.cls));
}

const bare = document.getElementById("bare");
bare.addEventListener("click", () => {
  const on = bare.getAttribute("aria-pressed") !== "true";
  bare.setAttribute("aria-pressed", String(on));
  document.body.classList.toggle("bare", on);
});
