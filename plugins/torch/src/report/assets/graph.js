// The graphs of the page: layout, drawing, and what keys and pointer do.
//
// A graph is a tree of nodes from left to right, each leaf on a row of its own and each parent amid its rows. Zooming
// changes the height of a row, not the size of letters: rows become cards with more and more text, or shrink to dots of
// which the most visited have labels. A parent stays in sight as long as any of its rows is. All text comes from
// models, so it reaches the page through textContent only.
"use strict";
(() => {
  const GRAPHS = JSON.parse(document.getElementById("graphs").textContent);
  const $ = (id) => document.getElementById(id);
  const stage = $("stage"), svg = $("live"), panel = $("panel"), picker = $("picker"), search = $("search");
  const CARD_ROW = 38, MAX_ROW = 150, FONT = 7.3, LINE = 15;
  let graph, children, depth, size, rows, last, order, selected, hovered, matches, at, collapsed, view, hits, queued, fitted;

  const make = (tag, attributes = {}, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const html = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
  const fixed = (value, digits) => value == null ? "" : value.toFixed(digits);
  const round = (value) => Math.round(value * 10) / 10;

  // ---- the graph -----------------------------------------------------------------------------------------------

  function open(index, node) {
    graph = GRAPHS[index];
    picker.value = String(index);
    const n = graph.nodes.length;
    children = Array.from({ length: n }, () => []);
    depth = new Array(n).fill(0);
    size = new Array(n).fill(1);
    graph.nodes.forEach((it, id) => {
      if (it.parent != null) { children[it.parent].push(id); depth[id] = depth[it.parent] + 1; }
    });
    for (let id = n - 1; id > 0; id--) size[graph.nodes[id].parent] += size[id];
    collapsed = new Set(); matches = []; at = -1; hovered = null; search.value = "";
    selected = node != null && node < n ? node : bestAnswer();
    // A trace over a large tree: what it never visits is folded.
    if (graph.nodes.some((it) => it.visit)) graph.nodes.forEach((it, id) => { if (!it.visit && children[id].length) collapsed.add(id); });
    layOut();
    if (node != null && node < n) { reveal(selected); center(selected, Math.max(fitRow(), 64)); } else { climb(); fit(); }
    describe();
  }

  /** The right answer that was visited most, else the root; with a trace, one that it visits. */
  function bestAnswer() {
    let best = 0;
    const traced = graph.nodes.some((it) => it.visit);
    graph.nodes.forEach((it, id) => {
      if (it.right === true && (it.visit || !traced) && (best === 0 || (it.visits || 0) > (graph.nodes[best].visits || 0))) best = id;
    });
    return best;
  }

  /** Gives each node in sight its row; `rows` and `last` are the first and the last row of what is below it. */
  function layOut() {
    const n = graph.nodes.length;
    rows = new Array(n).fill(-1); last = new Array(n).fill(-1); order = [];
    let next = 0;
    const pending = [0];
    while (pending.length) {
      const id = pending.pop();
      order.push(id);
      const open = collapsed.has(id) ? [] : children[id];
      if (!open.length) { rows[id] = last[id] = next++; }
      for (let i = open.length - 1; i >= 0; i--) pending.push(open[i]);
    }
    for (let i = order.length - 1; i >= 0; i--) {
      const id = order[i], open = collapsed.has(id) ? [] : children[id];
      if (open.length) { rows[id] = rows[open[0]]; last[id] = last[open[open.length - 1]]; }
    }
    order.numRows = next;
    order.maxDepth = order.reduce((most, id) => Math.max(most, depth[id]), 0);
  }

  const isShown = (id) => rows[id] >= 0;
  const path = (id) => { const ids = []; for (let i = id; i != null; i = graph.nodes[i].parent) ids.push(i); return ids.reverse(); };

  /** Goes from what is folded away to the nearest parent in sight. */
  function climb() { while (!isShown(selected)) selected = graph.nodes[selected].parent; }

  function reveal(id) {
    let changed = false;
    for (const i of path(id).slice(0, -1)) changed = collapsed.delete(i) || changed;
    if (changed) layOut();
  }

  function toggle(id) {
    if (!children[id].length) return;
    const before = place(id).y;
    if (!collapsed.delete(id)) collapsed.add(id);
    layOut();
    view.y += place(id).y - before;
    if (!isShown(selected)) selected = id;
    keepInside(); describe(); draw();
  }

  function collapseAll(which) {
    collapsed = new Set();
    if (which === "answers") {
      const leads = new Array(graph.nodes.length).fill(false);
      graph.nodes.forEach((it, id) => { if (it.right === true) for (const i of path(id)) leads[i] = true; });
      graph.nodes.forEach((_, id) => { if (!leads[id] && children[id].length) collapsed.add(id); });
    } else if (which === "first") {
      graph.nodes.forEach((_, id) => { if (depth[id] >= 1 && children[id].length) collapsed.add(id); });
    }
    layOut();
    climb();
    fit(); describe();
  }

  // ---- the view ------------------------------------------------------------------------------------------------

  const height = () => stage.clientHeight, hasMap = () => order.numRows * view.row > height() * 1.05;
  const width = () => stage.clientWidth - (hasMap() ? 64 : 0);
  const TOP = 26, LEFT = 26;
  const fitRow = () => clamp((height() - 2 * TOP) / Math.max(order.numRows, 1), 0.02, 84);

  /** Width of a column: cards get wider as rows get higher; dots use the width that there is. */
  function column() {
    const even = (width() - LEFT - 150) / Math.max(order.maxDepth, 1);
    if (view.row < CARD_ROW) return clamp(even, 40, 300);
    const all = (width() - LEFT + 20) / (order.maxDepth + 1);
    return all >= 215 ? Math.min(all, 330) : clamp(205 + (view.row - CARD_ROW) * 2.2, 205, 420);
  }

  function place(id) {
    const middle = (rows[id] + last[id]) / 2;
    const low = (TOP + view.row / 2 + view.y) / view.row - 0.5, high = (height() - TOP - view.row / 2 + view.y) / view.row - 0.5;
    const row = low < high ? clamp(clamp(middle, low, high), rows[id], last[id]) : middle;
    return { x: LEFT + depth[id] * view.column - view.x, y: (row + 0.5) * view.row - view.y };
  }

  function keepInside() {
    view.column = column();
    const across = LEFT + order.maxDepth * view.column + (view.row >= CARD_ROW ? view.column - 30 : 140);
    const down = order.numRows * view.row;
    const slack = 2 * TOP;
    view.x = across <= width() ? 0 : clamp(view.x, -slack, across - width() + slack);
    view.y = down <= height() ? (down - height()) / 2 : clamp(view.y, -slack, down - height() + slack);
  }

  function fit() {
    view = { x: 0, y: 0, row: fitRow() };
    fitted = true;
    keepInside(); draw();
  }

  function zoom(factor, x, y) {
    fitted = false;
    const before = view.row, oldColumn = view.column;
    view.row = clamp(view.row * factor, Math.min(fitRow(), 6), MAX_ROW);
    view.y = (view.y + y) * (view.row / before) - y;
    view.column = column();
    view.x = (view.x + x - LEFT) * (view.column / oldColumn) - x + LEFT;
    keepInside(); draw();
  }

  function center(id, row) {
    if (row) view = { x: 0, y: 0, row };
    fitted = false;
    view.column = column();
    view.y = ((rows[id] + last[id]) / 2 + 0.5) * view.row - height() / 2;
    view.x = LEFT + (depth[id] + 0.5) * view.column - width() * 0.62;
    keepInside(); draw();
  }

  /** Moves as little as it takes to have the node in sight. */
  function follow(id) {
    const p = place(id), across = view.row >= CARD_ROW ? view.column : 60;
    if (p.x < 10) view.x += p.x - 10;
    if (p.x + across > width()) view.x += p.x + across - width();
    const middle = ((rows[id] + last[id]) / 2 + 0.5) * view.row - view.y;
    if (middle < view.row / 2) view.y += middle - view.row;
    if (middle > height() - view.row / 2) view.y += middle - height() + view.row;
    keepInside(); draw();
  }

  // ---- drawing -------------------------------------------------------------------------------------------------

  function draw() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; paint(); });
  }

  function paint() {
    const w = width(), h = height(), cards = view.row >= CARD_ROW;
    svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    svg.setAttribute("width", w); svg.setAttribute("height", h);
    const on = new Set(path(selected)), tip = hovered == null ? null : new Set(path(hovered));
    const found = new Set(matches);
    hits = [];
    const places = new Array(graph.nodes.length);
    for (const id of order) places[id] = place(id);
    const layer = make("g");
    drawEdges(layer, places, cards, on, tip, w, h);
    if (cards) {
      for (const id of order) {
        const p = places[id];
        if (p.y > -view.row && p.y < h + view.row && p.x > -view.column && p.x < w) drawCard(layer, id, p, on, found);
      }
    } else drawDots(layer, places, on, found, w, h);
    drawMoves(layer, places, cards);
    svg.replaceChildren(layer);
    drawMap(h);
    $("count").textContent = matches.length ? `${at + 1} of ${matches.length}` : search.value ? "none" : "";
  }

  const cardWidth = () => view.column - 46;
  /** Returns run between rows, so that their cards leave more room. */
  const cardHeight = () => Math.min(view.row - (graph.moves ? 20 : 8), 124);

  function drawEdges(layer, places, cards, on, tip, w, h) {
    let plain = "", marked = "", pointed = "";
    for (const id of order) {
      const parent = graph.nodes[id].parent;
      if (parent == null) continue;
      const a = places[parent], b = places[id];
      if (Math.max(a.y, b.y) < -4 || Math.min(a.y, b.y) > h + 4 || b.x < -4 || a.x > w) continue;
      const x1 = a.x + (cards ? cardWidth() : 0), mid = (x1 + b.x) / 2;
      const d = `M${round(x1)} ${round(a.y)}C${round(mid)} ${round(a.y)} ${round(mid)} ${round(b.y)} ${round(b.x)} ${round(b.y)}`;
      if (on.has(id)) marked += d; else if (tip && tip.has(id)) pointed += d; else plain += d;
    }
    const thin = cards || view.row > 8 ? "edge" : "edge faint";
    layer.append(make("path", { class: thin, d: plain }), make("path", { class: "edge pointed", d: pointed }),
      make("path", { class: "edge onpath", d: marked }));
  }

  const verdict = (it) => it.right === true ? "right" : it.right === false ? "wrong" : "";
  const q = (it) => it.q == null ? 0 : clamp(it.q, 0, 1);

  /** Dots by visits: one path for all of a look, so that thousands cost as little as ten. */
  function drawDots(layer, places, on, found, w, h) {
    const most = graph.nodes.reduce((most, it, id) => id ? Math.max(most, it.visits || 0) : most, 1);
    const largest = clamp(view.row * 0.9, 4.5, 11);
    const radius = (id) => clamp(largest * Math.sqrt((graph.nodes[id].visits || 0) / most), 2.1, largest);
    const circle = (p, r) => `M${round(p.x - r)} ${round(p.y)}a${round(r)} ${round(r)} 0 1 0 ${round(2 * r)} 0a${round(r)} ${round(r)} 0 1 0 ${round(-2 * r)} 0`;
    const fills = ["", "", "", "", ""], signs = { right: "", wrong: "" };
    let rings = "", folds = "", marks = "", chosen = "";
    for (const id of order) {
      const it = graph.nodes[id], p = places[id], r = radius(id);
      if (p.x < -20 || p.x > w + 20 || p.y < -20 || p.y > h + 20) continue;
      hits.push({ id, x: p.x - r - 2, y: p.y - r - 2, w: 2 * r + 4, h: 2 * r + 4 });
      const sign = verdict(it), s = clamp(view.row * 0.4, 2.2, 4.5);
      if (sign === "right") signs.right += `M${round(p.x)} ${round(p.y - 1.45 * s)}l${round(1.45 * s)} ${round(1.45 * s)}l${round(-1.45 * s)} ${round(1.45 * s)}l${round(-1.45 * s)} ${round(-1.45 * s)}z`;
      else if (sign === "wrong") signs.wrong += `M${round(p.x - s)} ${round(p.y - s)}l${round(2 * s)} ${round(2 * s)}m0 ${round(-2 * s)}l${round(-2 * s)} ${round(2 * s)}`;
      else { fills[Math.min(4, Math.floor(q(it) * 5))] += circle(p, r); rings += circle(p, r); }
      if (collapsed.has(id)) folds += `M${round(p.x + r + 2)} ${round(p.y - 3.5)}l6 3.5l-6 3.5z`;
      if (found.has(id)) marks += circle(p, Math.max(r + 3, 5));
      if (id === selected) chosen += circle(p, Math.max(r + 3.5, 6));
    }
    layer.append(make("path", { class: "paper", d: rings }));
    fills.forEach((d, i) => layer.append(make("path", { class: "q", d, "fill-opacity": 0.08 + 0.21 * i })));
    layer.append(make("path", { class: "dot", d: rings }), make("path", { class: "fold", d: folds }),
      make("path", { class: "cross", d: signs.wrong }), make("path", { class: "diamond", d: signs.right }),
      make("path", { class: "found", d: marks }), make("path", { class: "chosen", d: chosen }));
    drawLabels(layer, places, on, found, radius, w, h);
  }

  /** Labels where there is room, first for what matters most. */
  function drawLabels(layer, places, on, found, radius, w, h) {
    const rank = (id) => (id === selected ? 8 : 0) + (on.has(id) ? 4 : 0) + (found.has(id) ? 2 : 0) + (graph.nodes[id].right === true ? 1 : 0);
    const wanted = order.filter((id) => { const p = places[id]; return p.x > -view.column && p.x < w && p.y > 6 && p.y < h - 6; });
    wanted.sort((a, b) => rank(b) - rank(a) || (graph.nodes[b].visits || 0) - (graph.nodes[a].visits || 0) || a - b);
    // What is taken of each line of 13 pixels: dots first, which no label may cover, then the labels themselves.
    const taken = new Map();
    const linesOf = (y) => [Math.floor((y - 5) / 13), Math.floor((y + 5) / 13)];
    const take = (y, from, to) => {
      for (const line of new Set(linesOf(y))) { if (!taken.has(line)) taken.set(line, []); taken.get(line).push([from, to]); }
    };
    const columns = new Set();
    for (const id of order) {
      const p = places[id], r = radius(id), key = `${depth[id]} ${Math.floor(p.y / 6)}`;
      if (columns.has(key) || p.y < -10 || p.y > h + 10) continue;
      columns.add(key);
      take(p.y, p.x - r - 1, p.x + r + 1);
    }
    let num = 0;
    for (const id of wanted) {
      if (num >= 300) break;
      const p = places[id], r = radius(id), folded = collapsed.has(id) ? `  +${size[id] - 1}` : "";
      const from = p.x + r + (folded ? 12 : 5);
      let until = Math.min(from + 400, w - 6);
      for (const line of linesOf(p.y)) {
        for (const [a, b] of taken.get(line) || []) { if (a >= from) until = Math.min(until, a - 3); else if (b > from) until = from; }
      }
      const letters = Math.floor((until - from) / 6.7), text = brief(id);
      if (letters < Math.min(6, text.length)) continue;
      const shown = folded.length + 4 < letters ? cut(text, letters - folded.length) + folded : cut(text, letters);
      take(p.y, from, from + shown.length * 6.7 + 2);
      layer.append(make("rect", { class: "paper under", x: round(from - 1), y: round(p.y - 6), width: round(shown.length * 6.62 + 2), height: 12 }),
        make("text", { class: `mono lab halo${on.has(id) ? " strong" : ""}`, x: round(from), y: round(p.y + 3.6) }, shown));
      hits.push({ id, x: from, y: p.y - 7, w: shown.length * 6.7, h: 14 });
      num++;
    }
  }

  const oneLine = (text) => text.replace(/\s+/g, " ").trim();
  const label = (id) => id === 0 ? oneLine(graph.problem) : oneLine(graph.nodes[id].text) || `#${id}`;
  /** Without its number, which the column says. */
  const brief = (id) => label(id).replace(/^#*\s*step\s*\d+\s*[:.)-]*\s*/i, "") || label(id);
  const cut = (text, columns) => text.length <= columns ? text : text.slice(0, Math.max(columns - 1, 1)).trimEnd() + "…";

  function wrap(text, columns, lines) {
    const out = [];
    let rest = oneLine(text);
    while (rest && out.length < lines) {
      if (rest.length <= columns) { out.push(rest); rest = ""; break; }
      let end = rest.lastIndexOf(" ", columns);
      if (end < columns * 0.45) end = columns;
      out.push(rest.slice(0, end));
      rest = rest.slice(end).trimStart();
    }
    if (rest && out.length) out[out.length - 1] = cut(out[out.length - 1] + " " + rest, columns);
    return out;
  }

  function figures(id) {
    const it = graph.nodes[id], parts = [];
    if (id && it.visits != null) parts.push(`N ${it.visits}`);
    if (id && it.q != null) parts.push(`Q ${it.q.toFixed(2)}`);
    if (it.prior != null && id) parts.push(`P ${it.prior.toFixed(2)}`);
    if (it.positive) parts.push(`+ approved`);
    if (it.negative) parts.push(`- doubted`);
    return parts.join(" · ");
  }

  function drawCard(layer, id, p, on, found) {
    const it = graph.nodes[id], w = cardWidth(), h = cardHeight(), top = p.y - h / 2, sign = verdict(it);
    const group = make("g", { class: `card${sign && " is-" + sign}${id === 0 ? " is-top" : ""}${on.has(id) ? " is-on" : ""}${id === selected ? " is-chosen" : ""}${found.has(id) ? " is-found" : ""}` });
    if (sign === "right") group.append(make("rect", { class: "outer", x: round(p.x - 3), y: round(top - 3), width: round(w + 6), height: round(h + 6), rx: 8 }));
    group.append(make("rect", { class: "body", x: round(p.x), y: round(top), width: round(w), height: round(h), rx: 6 }));
    if (id && it.q != null) {
      group.append(make("rect", { class: "track", x: round(p.x + 6), y: round(top + h - 5), width: round(w - 12), height: 2.5, rx: 1 }),
        make("rect", { class: "bar", x: round(p.x + 6), y: round(top + h - 5), width: round((w - 12) * q(it)), height: 2.5, rx: 1 }));
    }
    const stats = figures(id), lines = Math.max(1, Math.floor((h - 10 - (stats ? LINE : 0)) / LINE));
    const columns = Math.floor((w - 18 - (sign ? 16 : 0)) / FONT);
    let y = top + 14;
    for (const line of wrap(label(id), columns, lines)) {
      group.append(make("text", { class: "mono", x: round(p.x + 9), y: round(y) }, line));
      y += LINE;
    }
    if (stats) group.append(make("text", { class: "soft small", x: round(p.x + 9), y: round(top + h - 9) }, cut(stats, Math.floor((w - 18) / 5.6))));
    if (sign) {
      const x = p.x + w - 13, m = top + 12;
      group.append(make("path", { class: `sign ${sign}`, d: sign === "right" ? `M${x - 5} ${m}l3.4 3.6l6.4 -8` : `M${x - 4} ${m - 4}l8 8m0 -8l-8 8` }));
    }
    if (it.visit) {
      const text = cut(it.visit.join(" "), 12), wide = 9 + text.length * 6.4;
      group.append(make("rect", { class: "knob visit", x: round(p.x - 6), y: round(top - 8), width: round(wide), height: 15, rx: 7.5 }),
        make("text", { class: "small mid strong", x: round(p.x - 6 + wide / 2), y: round(top + 3.3) }, text));
    }
    if (children[id].length) {
      const x = p.x + w, folded = collapsed.has(id), text = folded ? `+${size[id] - 1}` : "−", half = folded ? 5 + text.length * 3.4 : 7;
      group.append(make("rect", { class: "knob", x: round(x - half), y: round(p.y - 7.5), width: round(2 * half), height: 15, rx: 7.5 }),
        make("text", { class: "small mid", x: round(x), y: round(p.y + 3.7) }, text));
      hits.push({ id, knob: true, x: x - half - 2, y: p.y - 10, w: 2 * half + 4, h: 20 });
    }
    hits.push({ id, x: p.x, y: top, w, h });
    layer.append(group);
  }

  /** Returns to earlier steps, numbered, dashed or dotted, with an arrow head at their target. */
  function drawMoves(layer, places, cards) {
    (graph.moves || []).forEach((move, i) => {
      let { from, to } = move;
      while (!isShown(from)) from = graph.nodes[from].parent;
      while (!isShown(to)) to = graph.nodes[to].parent;
      if (from === to) return;
      const a = places[from], b = places[to], kind = move.restart ? "restart" : "back";
      // Out below the step that is left, along the gap under its row, which no step on the way crosses, and into the
      // lower right of the target.
      const half = cards ? cardHeight() / 2 : 4, wide = cards ? cardWidth() : 4;
      const out = a.x + (cards ? 20 : 0), lane = a.y + half + (cards ? 9 : 3);
      const into = [b.x + wide, b.y + half * (0.35 + 0.16 * (i % 4))], turn = into[0] + (cards ? 20 : 9);
      const down = lane > into[1] ? 1 : -1, bend = Math.min(10, Math.abs(lane - into[1]) / 2);
      const d = `M${round(out)} ${round(a.y + half)}V${round(lane - 4)}q0 4 -4 4H${round(turn + bend)}q${round(-bend)} 0 ${round(-bend)} ${round(-down * bend)}V${round(into[1] + down * bend)}`
        + `q0 ${round(-down * bend)} ${round(-bend)} ${round(-down * bend)}H${round(into[0] + 6)}`;
      layer.append(make("path", { class: kind, d }),
        make("path", { class: `tip-${kind}`, d: `M${round(into[0])} ${round(into[1])}l8 -4v8z` }));
      const badge = { cx: round(Math.max(a.x - 6, turn + 14)), cy: round(lane) };
      layer.append(make("circle", { class: `badge ${kind}`, ...badge, r: 8.5 }),
        make("text", { class: "small mid", x: badge.cx, y: round(lane + 3.7) }, move.number + (move.uncertain ? "?" : "")));
    });
  }

  /** The whole tree in a strip at the edge, with what is in sight; only where not all is. */
  function drawMap(h) {
    const map = $("map");
    map.style.display = hasMap() ? "" : "none";
    if (!hasMap()) return;
    const w = map.clientWidth;
    map.setAttribute("viewBox", `0 0 ${w} ${h}`);
    const x = (id) => 5 + (w - 10) * depth[id] / Math.max(order.maxDepth, 1), y = (row) => (row + 0.5) / order.numRows * h;
    let lines = "", right = "", wrong = "";
    for (const id of order) {
      const row = (rows[id] + last[id]) / 2, parent = graph.nodes[id].parent, sign = verdict(graph.nodes[id]);
      if (parent != null) lines += `M${round(x(parent))} ${round(y((rows[parent] + last[parent]) / 2))}L${round(x(id))} ${round(y(row))}`;
      const dash = `M${round(x(id) - 3)} ${round(y(row))}h6`;
      if (sign === "right") right += dash; else if (sign === "wrong") wrong += dash;
    }
    const from = clamp(view.y / view.row, 0, order.numRows), to = clamp((view.y + h) / view.row, 0, order.numRows);
    map.replaceChildren(make("path", { class: "edge faint", d: lines }), make("path", { class: "mapwrong", d: wrong }),
      make("path", { class: "mapright", d: right }),
      make("rect", { class: "window", x: 1, y: round(from / order.numRows * h), width: w - 2, height: round(Math.max((to - from) / order.numRows * h, 4)) }));
  }

  // ---- the panel -----------------------------------------------------------------------------------------------

  function describe() {
    const it = graph.nodes[selected];
    panel.replaceChildren();
    const title = selected === 0 ? "Problem" : it.right === true ? "Right answer ✓" : it.right === false ? "Wrong answer ✗" : it.terminal ? "Answer, not judged" : `Step at depth ${depth[selected]}`;
    panel.append(html("h2", verdict(it), title), html("pre", "", selected === 0 ? graph.problem : it.text));
    const list = html("dl");
    const row = (name, value, help) => {
      if (value == null || value === "") return;
      const key = html("dt", "", name);
      if (help) key.title = help;
      list.append(key, html("dd", "", String(value)));
    };
    if (selected === 0) row("reference answer", graph.answer);
    row("answer", it.answer);
    if (selected) {
      row("N, visits", it.visits, "Simulations that went through this step.");
      row("Q, value", fixed(it.q, 3), "Mean reward of the rollouts below this step.");
      row("R, rollouts", fixed(it.rollout, 3), "Mean reward of this step's own rollouts.");
      row("P, prior", fixed(it.prior, 3), "The policy's probability of this step among its siblings.");
      row("self-evaluation", it.self_eval);
      row("approved", it.positive); row("doubted", it.negative);
    }
    if (it.visit) row("visits of the trace", it.visit.join(", "));
    row("steps below", size[selected] - 1 || "");
    row("node", `#${selected}`);
    panel.append(list);
    const moves = (graph.moves || []).filter((move) => move.from === selected || move.to === selected);
    for (const move of moves) {
      const text = `${move.restart ? "restart" : "return"} ${move.number}${move.uncertain ? " (a guess)" : ""}: ${move.text}`;
      const other = move.from === selected ? move.to : move.from;
      panel.append(link(text, other, `move ${move.restart ? "restart" : "back"}`));
    }
    const steps = path(selected);
    if (steps.length > 1) {
      panel.append(html("h3", "", "Path"));
      const ol = html("ol");
      for (const id of steps) { const li = html("li"); li.append(link(cut(label(id), 90), id, id === selected ? "here" : "")); ol.append(li); }
      panel.append(ol);
    }
    $("said").textContent = `${title}: ${cut(selected === 0 ? oneLine(graph.problem) : oneLine(it.text), 300)}. ${figures(selected)}`;
    $("summary").textContent = graph.summary;
    const index = GRAPHS.indexOf(graph);
    try { history.replaceState(null, "", `#${index}/${selected}`); } catch { /* Some viewers of local files forbid it. */ }
  }

  function link(text, id, className) {
    const button = html("button", `link ${className}`, text);
    button.type = "button";
    button.addEventListener("click", () => { select(id); });
    return button;
  }

  function select(id) {
    reveal(id);
    selected = id;
    describe();
    follow(id);
  }

  // ---- search --------------------------------------------------------------------------------------------------

  function find() {
    const wanted = search.value.trim().toLowerCase();
    const number = /^#(\d+)$/.exec(wanted);
    const has = (it, id) => number ? id === Number(number[1])
      : (id === 0 ? graph.problem : it.text).toLowerCase().includes(wanted) || (it.answer || "").toLowerCase() === wanted;
    matches = wanted ? graph.nodes.map((it, id) => has(it, id) ? id : -1).filter((id) => id >= 0) : [];
    at = -1;
    if (matches.length) step(1); else draw();
  }

  function step(by) {
    if (!matches.length) return;
    at = (at + by + matches.length) % matches.length;
    select(matches[at]);
  }

  // ---- pointer and keys ----------------------------------------------------------------------------------------

  /** The smallest thing under a point; near enough counts for dots. */
  function under(event) {
    const box = stage.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const inside = hits.filter((it) => x >= it.x && x <= it.x + it.w && y >= it.y && y <= it.y + it.h);
    if (inside.length) return inside.reduce((a, b) => b.w * b.h < a.w * a.h ? b : a);
    const far = (it) => Math.hypot(x - it.x - it.w / 2, y - it.y - it.h / 2);
    const near = hits.reduce((a, b) => !a || far(b) < far(a) ? b : a, null);
    return near && view.row < CARD_ROW && far(near) < 12 ? near : null;
  }

  let drag = null;
  const pointers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("#map") || event.button > 0) return;
    pointers.set(event.pointerId, event);
    drag = { x: event.clientX, y: event.clientY, vx: view.x, vy: view.y, moved: false };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (pointers.size === 2 && pointers.has(event.pointerId)) {
      const spread = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1; };
      const before = spread();
      pointers.set(event.pointerId, event);
      const box = stage.getBoundingClientRect();
      zoom(spread() / before, event.clientX - box.left, event.clientY - box.top);
      if (drag) drag.moved = true;
    } else if (drag) {
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      drag.moved = drag.moved || Math.hypot(dx, dy) > 4;
      if (drag.moved) { view.x = drag.vx - dx; view.y = drag.vy - dy; keepInside(); draw(); }
    } else if (!event.target.closest("#map")) {
      const hit = under(event), id = hit ? hit.id : null;
      stage.classList.toggle("over", id != null);
      if (id !== hovered) { hovered = id; showTip(event, id); draw(); }
    }
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    if (drag && !drag.moved && event.type === "pointerup") {
      const hit = under(event);
      if (hit && hit.knob) toggle(hit.id);
      else if (hit) { selected = hit.id; describe(); draw(); }
    }
    drag = null;
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("pointerleave", () => { hovered = null; $("tip").hidden = true; draw(); });
  stage.addEventListener("dblclick", (event) => { const hit = under(event); if (hit && !hit.knob) toggle(hit.id); });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    const unit = event.deltaMode === 1 ? 18 : event.deltaMode === 2 ? height() : 1;
    if (event.shiftKey) { view.x += (event.deltaX || event.deltaY) * unit; keepInside(); draw(); }
    else if (event.altKey) { view.y += event.deltaY * unit; keepInside(); draw(); }
    else zoom(Math.exp(-event.deltaY * unit * 0.0022), event.clientX - box.left, event.clientY - box.top);
    $("tip").hidden = true;
  }, { passive: false });

  function showTip(event, id) {
    const tip = $("tip");
    tip.hidden = id == null;
    if (id == null) return;
    const box = stage.getBoundingClientRect();
    tip.replaceChildren(html("span", "", cut(id === 0 ? graph.problem : graph.nodes[id].text, 420)), html("small", "", figures(id)));
    const x = event.clientX - box.left, y = event.clientY - box.top;
    tip.style.left = `${clamp(x + 14, 4, Math.max(width() - 330, 4))}px`;
    tip.style.top = y > height() * 0.6 ? "" : `${y + 16}px`;
    tip.style.bottom = y > height() * 0.6 ? `${height() - y + 14}px` : "";
  }

  let mapping = false;
  const jump = (event) => {
    const box = $("map").getBoundingClientRect();
    view.y = (event.clientY - box.top) / box.height * order.numRows * view.row - height() / 2;
    keepInside(); draw();
  };
  $("map").addEventListener("pointerdown", (event) => { mapping = true; $("map").setPointerCapture(event.pointerId); jump(event); event.stopPropagation(); });
  $("map").addEventListener("pointermove", (event) => { if (mapping) jump(event); });
  $("map").addEventListener("pointerup", () => { mapping = false; });

  const siblings = (by) => {
    const shown = order.filter((id) => depth[id] === depth[selected]);
    const next = shown[shown.indexOf(selected) + by];
    if (next != null) select(next);
  };
  const answers = (by) => {
    const all = order.filter((id) => graph.nodes[id].terminal || graph.nodes[id].right != null);
    if (!all.length) return;
    const here = all.indexOf(selected);
    select(all[here < 0 ? 0 : (here + by + all.length) % all.length]);
  };
  const keys = {
    ArrowLeft: () => graph.nodes[selected].parent != null && select(graph.nodes[selected].parent),
    ArrowRight: () => { if (collapsed.has(selected)) toggle(selected); else if (children[selected].length) select(children[selected][0]); },
    ArrowDown: () => siblings(1), ArrowUp: () => siblings(-1), Home: () => select(0), End: () => select(bestAnswer()),
    Enter: () => toggle(selected), " ": () => toggle(selected),
    "+": () => zoom(1.35, width() * 0.5, clamp(place(selected).y, 0, height())), "=": () => keys["+"](),
    "-": () => zoom(1 / 1.35, width() * 0.5, clamp(place(selected).y, 0, height())),
    0: fit, f: fit, c: () => center(selected, Math.max(view.row, 64)), a: () => answers(1), A: () => answers(-1),
    n: () => step(1), N: () => step(-1), "/": () => search.focus(),
    PageDown: () => { view.y += height() * 0.85; keepInside(); draw(); }, PageUp: () => { view.y -= height() * 0.85; keepInside(); draw(); },
  };
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); step(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") { search.value = ""; find(); stage.focus(); }
  });
  picker.addEventListener("change", () => open(Number(picker.value)));
  const click = (id, action) => $(id).addEventListener("click", () => { action(); });
  click("fit", fit);
  click("in", keys["+"]); click("out", keys["-"]);
  click("all", () => collapseAll("none")); click("answers", () => collapseAll("answers")); click("first", () => collapseAll("first"));
  click("next", () => step(1)); click("previous", () => step(-1));
  addEventListener("resize", () => { if (fitted) fit(); else { keepInside(); draw(); } });
  let beforePrint = null;
  addEventListener("beforeprint", () => { beforePrint = { ...view }; view.row = fitRow(); keepInside(); paint(); });
  addEventListener("afterprint", () => { if (beforePrint) { view = beforePrint; draw(); } });

  GRAPHS.forEach((it, i) => { const option = html("option", "", it.name); option.value = String(i); picker.append(option); });
  picker.hidden = GRAPHS.length < 2;
  document.documentElement.classList.add("live");
  const asked = /^#(\d+)\/(\d+)$/.exec(location.hash);
  if (asked && Number(asked[1]) < GRAPHS.length) open(Number(asked[1]), Number(asked[2])); else open(0);
})();
