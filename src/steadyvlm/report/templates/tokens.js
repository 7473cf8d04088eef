"use strict";
// Kept tokens on pictures, for every page that shows them. Where a token lies was worked out by `token_map`.

/** Build an element: attributes, then children; strings become text nodes. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Text from outside, kept from reordering what stands beside it. */
const bdi = (text, className) => make("bdi", className ? { class: className } : {}, text);

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Whether cell `index` is set in a hexadecimal mask. */
const inMask = (mask, index) => (parseInt(mask[index >> 2], 16) >> (index & 3)) & 1;

/**
 * Draw one panel on its picture: dropped tokens are veiled, merged ones framed and counted, places that the model did
 * not see greyed. `cells` is { kept: mask, merged: [cell, count, …] }, or null for the bare picture.
 */
function drawTokens(layer, picture, panel, cells) {
  layer.replaceChildren();
  layer.setAttribute("viewBox", `0 0 ${picture.w} ${picture.h}`);
  if (!cells) return;
  const [left, top, right, bottom] = panel.box;
  const [x0, y0] = [left * picture.w, top * picture.h];
  const [dx, dy] = [((right - left) * picture.w) / panel.columns, ((bottom - top) * picture.h) / panel.rows];
  if (left > 0.0001 || top > 0.0001 || right < 0.9999 || bottom < 0.9999) {
    layer.append(svg("path", { class: "unseen", "fill-rule": "evenodd",
      d: `M0 0H${picture.w}V${picture.h}H0ZM${x0} ${y0}h${dx * panel.columns}v${dy * panel.rows}h${-dx * panel.columns}Z` }));
  }
  const there = (row, column) => row >= 0 && column >= 0 && row < panel.rows && column < panel.columns;
  const kept = (row, column) => there(row, column) && inMask(cells.kept, row * panel.columns + column);
  let edges = "";
  for (let row = 0; row < panel.rows; row += 1) {
    for (let column = 0; column < panel.columns; column += 1) {
      if (kept(row, column)) continue;
      const x = x0 + column * dx, y = y0 + row * dy;
      layer.append(svg("rect", { class: "dropped", x, y, width: dx, height: dy, "shape-rendering": "crispEdges" }));
      if (kept(row, column - 1)) edges += `M${x} ${y}v${dy}`;
      if (kept(row, column + 1)) edges += `M${x + dx} ${y}v${dy}`;
      if (kept(row - 1, column)) edges += `M${x} ${y}h${dx}`;
      if (kept(row + 1, column)) edges += `M${x} ${y + dy}h${dx}`;
    }
  }
  if (edges) layer.append(svg("path", { class: "edge", d: edges }));
  const side = Math.min(dx, dy);
  for (let place = 0; place < cells.merged.length; place += 2) {
    const [index, count] = [cells.merged[place], cells.merged[place + 1]];
    const x = x0 + (index % panel.columns) * dx, y = y0 + Math.floor(index / panel.columns) * dy;
    for (const [name, inset, width] of [["merged-shadow", 0.07, 0.2], ["merged", 0.06, 0.12]]) {
      layer.append(svg("rect", { class: name, x: x + inset * side, y: y + inset * side, width: dx - 2 * inset * side,
        height: dy - 2 * inset * side, "stroke-width": width * side }));
    }
    const size = Math.min(0.62, 1.15 / String(count).length) * side;
    layer.append(svg("text", { class: "merged-count", x: x + dx / 2, y: y + dy / 2, dy: "0.36em",
      "font-size": size, "stroke-width": size / 5 }, String(count)));
  }
}
