"use strict";
// The chosen frame in three dimensions, its atoms coloured by how unreliable their predictions were.
(() => {
  const { symbols, scenes } = JSON.parse(document.getElementById("scenes").textContent);
  const place = document.getElementById("view");
  if (!place) return;
  const byId = (id) => document.getElementById(id);
  const PAINTS = {
    scores: { name: "score: distance beyond the domain", unit: "" },
    cli: { name: "Λ of each atom", unit: "ps" },
  };
  // Light to dark: told apart without colour vision, and seen on white and on black.
  const STOPS = [[226, 228, 226], [253, 200, 100], [232, 110, 40], [178, 24, 43], [90, 0, 50]];
  const hex = (rgb) => "#" + rgb.map((v) => Math.round(v).toString(16).padStart(2, "0")).join("");
  function colour(fraction) {
    const place = Math.min(1, Math.max(0, fraction)) * (STOPS.length - 1);
    const i = Math.min(STOPS.length - 2, Math.floor(place));
    return hex(STOPS[i].map((low, k) => low + (STOPS[i + 1][k] - low) * (place - i)));
  }
  byId("bar").style.background = `linear-gradient(to right, ${STOPS.map(hex).join(", ")})`;
  const text = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toString());
  const own = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  let viewer = null;
  let shown = scenes[0];

  function paintOf(scene) {
    const chosen = byId("paint").value;
    if (scene[chosen]) return chosen;
    return Object.keys(PAINTS).find((name) => scene[name]) ?? null;
  }
  function offer(scene) {
    const before = byId("paint").value;
    byId("paint").replaceChildren(
      ...Object.entries(PAINTS).filter(([name]) => scene[name]).map(([name, { name: title }]) => new Option(title, name)),
    );
    if (before && scene[before]) byId("paint").value = before;
  }
  function describe(scene, values, paint) {
    const names = symbols[scene.structure];
    const by = paint ? `coloured by ${PAINTS[paint].name}` : "no values for its atoms";
    const top = values ? values.indexOf(Math.max(...values)) : -1;
    const most = top >= 0 && values[top] > 0 ? `; largest at ${names[top]}${top}: ${text(values[top])} ${PAINTS[paint].unit}` : "";
    const why = scene.atom === null ? "" : `. Selected for ${names[scene.atom]}${scene.atom}: ${scene.reason}`;
    byId("seen").textContent = `${scene.title}: ${by}${most}${why}.`;
    byId("least").textContent = values ? "0" : "";
    byId("most").textContent = values ? `${text(Math.max(...values))} ${PAINTS[paint].unit}` : "";
    byId("bar").style.visibility = values ? "visible" : "hidden";
    byId("atoms").replaceChildren(
      tableOf(["Atom", "Score", "Λ, ps"], names.map((s, i) => [`${s}${i}`, text(scene.scores?.[i]), text(scene.cli?.[i])])),
    );
  }
  function corners(cell) {
    const [a, b, c] = [0, 3, 6].map((i) => cell.slice(i, i + 3));
    const at = (i, j, k) => Object.fromEntries(["x", "y", "z"].map((n, d) => [n, i * a[d] + j * b[d] + k * c[d]]));
    const lines = [];
    for (const i of [0, 1]) for (const j of [0, 1]) {
      lines.push([at(0, i, j), at(1, i, j)], [at(i, 0, j), at(i, 1, j)], [at(i, j, 0), at(i, j, 1)]);
    }
    return lines;
  }
  function look(scene, keepView) {
    shown = scene;
    offer(scene);
    const paint = paintOf(scene);
    const values = paint && scene[paint].map((value) => value ?? 0);
    describe(scene, values, paint);
    if (!viewer) return;
    const names = symbols[scene.structure];
    const xyz = names.map((s, i) => [s, ...scene.positions.slice(3 * i, 3 * i + 3)].join(" "));
    const most = values ? Math.max(...values) || 1 : 1;
    const colours = names.map((_, i) => (values ? colour(values[i] / most) : "#9aa5b4"));
    viewer.clear();
    viewer.setBackgroundColor(own("--page"), 1);
    const colorfunc = (atom) => colours[atom.index];
    viewer.addModel([names.length, "", ...xyz].join("\n"), "xyz");
    viewer.setStyle({}, { stick: { radius: 0.13, colorfunc }, sphere: { scale: 0.27, colorfunc } });
    if (names.length <= 60) {
      names.forEach((name, i) => viewer.addLabel(`${name}${i}`, {
        position: at(scene, i), fontSize: 12, fontColor: own("--ink"), showBackground: false,
        inFront: true, alignment: "bottomLeft", screenOffset: { x: 9, y: 9 },
      }));
    }
    if (scene.atom !== null) {
      viewer.addSphere({ center: at(scene, scene.atom), radius: 0.62, color: own("--link"), wireframe: true, linewidth: 1 });
    }
    for (const [start, end] of scene.cell ? corners(scene.cell) : []) viewer.addLine({ start, end, color: own("--soft") });
    if (!keepView) { viewer.zoomTo(); viewer.zoom(1.3); }
    viewer.render();
  }
  const at = (scene, i) => ({ x: scene.positions[3 * i], y: scene.positions[3 * i + 1], z: scene.positions[3 * i + 2] });

  function begin() {
    if (viewer) return;
    try {
      viewer = $3Dmol.createViewer(place, { backgroundColor: own("--page"), antialias: true, disableFog: true });
    } catch (error) {
      viewer = null;
    }
    if (!viewer) place.textContent = "This browser cannot draw in three dimensions (it has no WebGL); the numbers are below.";
    look(shown);
  }
  new IntersectionObserver((entries, sight) => {
    if (entries.some((entry) => entry.isIntersecting)) { sight.disconnect(); begin(); }
  }, { rootMargin: "300px" }).observe(place);
  look(shown);

  for (const radio of document.querySelectorAll('[name="frame"]')) {
    radio.addEventListener("change", () => look(scenes[Number(radio.value)]));
  }
  byId("paint").addEventListener("change", () => look(shown, true));
  function turn(axis, angle) { viewer?.rotate(angle, axis); }
  for (const button of document.querySelectorAll("[data-turn]")) {
    const [axis, angle] = button.dataset.turn.split(",");
    button.addEventListener("click", () => turn(axis, Number(angle)));
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => viewer?.zoom(Number(button.dataset.zoom)));
  }
  const KEYS = { ArrowLeft: ["y", -15], ArrowRight: ["y", 15], ArrowUp: ["x", -15], ArrowDown: ["x", 15] };
  place.addEventListener("keydown", (event) => {
    if (KEYS[event.key]) turn(...KEYS[event.key]);
    else if (event.key === "+" || event.key === "-") viewer?.zoom(event.key === "+" ? 1.25 : 0.8);
    else return;
    event.preventDefault();
  });
  // The wheel scrolls the page; with Ctrl it zooms.
  place.addEventListener("wheel", (event) => { if (!event.ctrlKey) event.stopPropagation(); }, { capture: true });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => look(shown, true));
  addEventListener("resize", () => { viewer?.resize(); });
  addEventListener("beforeprint", () => {
    begin();
    if (viewer) byId("picture").src = viewer.pngURI();
  });
})();
