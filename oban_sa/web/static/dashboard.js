// What pages gain where scripts run: live updates, keys, the theme, and how many rows are chosen. Nothing needs it.
"use strict";
(() => {
  const root = document.documentElement;
  const keep = (name, value) => { try { localStorage.setItem("oban." + name, value); } catch { /* not allowed here */ } };
  const kept = (name) => { try { return localStorage.getItem("oban." + name); } catch { return null; } };

  root.classList.add("js");

  // The theme, before the first paint.
  const themes = ["system", "light", "dark"];
  let theme = themes.includes(kept("theme")) ? kept("theme") : "system";
  const paint = () => {
    if (theme === "system") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    const label = document.querySelector("#theme-button .label");
    if (label) label.textContent = theme[0].toUpperCase() + theme.slice(1);
  };
  const turn = () => { theme = themes[(themes.indexOf(theme) + 1) % themes.length]; keep("theme", theme); paint(); };
  paint();

  // Live: the server says by SSE that something has changed, and the page asks for itself. Where no message arrives,
  // as behind a proxy that keeps them back, it asks every five seconds.
  let paused = kept("paused") === "yes";
  let heard = 0;
  let stale = false;
  let asking = false;
  const started = Date.now();
  let asked = started;
  const label = () => {
    const feed = paused ? "paused" : heard ? "live" : Date.now() - started > 6000 ? "polling" : "connecting";
    root.dataset.feed = feed;
    const button = document.getElementById("live-button");
    if (!button) return;
    button.setAttribute("aria-pressed", String(paused));
    const text = { paused: "Paused", live: "Live", polling: "Polling", connecting: "Live" }[feed];
    const span = button.querySelector(".label");
    if (span.textContent !== text) span.textContent = text;
  };
  const busy = () => {
    const page = document.getElementById("page");
    if (!page || !["on", "slow"].includes(page.dataset.live)) return true;
    if (page.dataset.live === "slow" && Date.now() - asked < 10000) return true;
    const active = document.activeElement;
    // A page is not changed under the hands of its reader.
    if (active && page.contains(active) && active.matches("input:not([type=checkbox]), textarea, select")) return true;
    return Boolean(document.querySelector("input[name=id]:checked")) || String(getSelection()).length > 0;
  };
  const refresh = async () => {
    if (paused || document.hidden) { stale = true; return; }
    if (busy() || asking || !window.htmx) { stale = true; return; }
    stale = false;
    asking = true;
    asked = Date.now();
    try {
      await htmx.ajax("GET", location.href, { source: "#live", target: "#page", select: "#page", swap: "outerMorph" });
    } catch { /* the next message asks again */ } finally { asking = false; label(); }
  };
  document.addEventListener("hello", () => { heard = Date.now(); label(); });
  document.addEventListener("pulse", () => { heard = Date.now(); label(); refresh(); });
  document.addEventListener("htmx:sse:close", () => { heard = 0; label(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && stale) refresh(); });
  setInterval(() => {
    label();
    if (stale) refresh();
    else if (!heard && Date.now() - started > 6000 && Math.round(Date.now() / 1000) % 5 === 0) refresh();
  }, 1000);
  const pause = () => { paused = !paused; keep("paused", paused ? "yes" : "no"); label(); if (!paused) refresh(); };

  // Choosing rows.
  const count = () => {
    const boxes = [...document.querySelectorAll("input[name=id][type=checkbox]")];
    const chosen = boxes.filter((box) => box.checked).length;
    const said = document.querySelector("#choose .chosen");
    if (said) said.textContent = chosen ? `${chosen} chosen:` : "Chosen: none";
    document.querySelectorAll("#choose .acts button").forEach((button) => { button.disabled = !chosen; });
    const all = document.querySelector("[data-choose-all]");
    if (all) { all.checked = chosen > 0 && chosen === boxes.length; all.indeterminate = chosen > 0 && chosen < boxes.length; }
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-choose-all]")) {
      document.querySelectorAll("input[name=id][type=checkbox]").forEach((box) => { box.checked = event.target.checked; });
    }
    if (event.target.matches("[data-choose-all], input[name=id]")) count();
  });

  // Suggestions: a list holds whole values, so its options are the query so far with its last word completed.
  const most = 20;
  const suggest = (input) => {
    const list = input.list;
    if (!list) return;
    const [, head, minus, part] = /^((?:.*\s)?)(-?)(.*)$/s.exec(input.value);
    const comma = part.includes(":") ? part.lastIndexOf(",") + 1 : 0;
    const field = comma ? part.slice(0, part.indexOf(":") + 1) : "";
    const wanted = (field + part.slice(comma)).toLowerCase();
    const rest = part.slice(comma).toLowerCase();
    const fits = (word) => word.toLowerCase().startsWith(wanted) || (!field && rest && word.toLowerCase().split(":").pop().startsWith(rest));
    const words = JSON.parse(list.dataset.words).filter((word) => word.toLowerCase() !== wanted && fits(word)).slice(0, most);
    const kept = head + minus + part.slice(0, comma);
    list.replaceChildren(...words.map((word) => new Option("", kept + word.slice(field.length))));
  };
  document.addEventListener("input", (event) => { if (event.target.id === "q") suggest(event.target); });

  // Keys.
  let before = "";
  const rows = () => [...document.querySelectorAll("[data-row]")];
  const current = () => document.querySelector("[data-row].current");
  const move = (by) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(current());
    const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))];
    all.forEach((row) => row.classList.toggle("current", row === next));
    next.querySelector("a")?.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input:not([type=checkbox]), textarea, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const key = event.key;
    if (before === "g") {
      before = "";
      const link = document.querySelector(`[data-keys="g ${CSS.escape(key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (key === "g") before = "g";
    else if (key === "/") { event.preventDefault(); document.getElementById("q")?.focus(); }
    else if (key === "j") move(1);
    else if (key === "k") move(-1);
    else if (key === "x") { const box = current()?.querySelector("input[name=id]"); if (box) { box.checked = !box.checked; count(); } }
    else if (key === "p") pause();
    else if (key === "t") turn();
    else if (key === "?") document.getElementById("keys")?.showModal();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#live-button")) pause();
    else if (event.target.closest("#theme-button")) turn();
    else if (event.target.closest("#keys-button")) document.getElementById("keys")?.showModal();
  });
  const settle = () => { paint(); label(); count(); };
  document.addEventListener("DOMContentLoaded", settle);
  document.addEventListener("htmx:after:swap", settle);
})();
