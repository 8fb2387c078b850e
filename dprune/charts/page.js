// Still pictures of charts come alive as they come into view. Where this does not run, they stay as they are.
(async () => {
  "use strict";
  if (!window.DecompressionStream || !window.IntersectionObserver) return;

  async function unpacked(name) {
    const bytes = Uint8Array.from(atob(document.getElementById(name).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function library() {
    const script = document.createElement("script");
    script.textContent = await unpacked("vega");
    document.head.append(script);
    return window.vegaEmbed;
  }

  const { templates, figures } = JSON.parse(await unpacked("charts"));
  const embed = await library();
  const picked = new Set(), views = new Map();

  // The lines that were picked, as the numbers that they have in a chart; null, for all, where it has none of them.
  function shown(figure) {
    const numbers = (figure.lines || []).flatMap((name, number) => (picked.has(name) ? [number] : []));
    return numbers.length ? numbers : null;
  }

  function described(figure) {
    const { words, data } = figure, template = templates[figure.template];
    const rows = ({ names, rows }) => rows.map((row) => Object.fromEntries(names.map((name, n) => [name, row[n]])));
    return {
      ...template,
      signals: template.signals.map((s) => (s.name in words ? { ...s, value: words[s.name] }
        : s.name === "shown" ? { ...s, value: shown(figure) } : s)),
      data: template.data.map((d) => (d.name in data ? { ...d, values: rows(data[d.name]) } : d)),
    };
  }

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  function tell(event, value) {
    tip.hidden = !value;
    if (!value) return;
    tip.replaceChildren(...String(value).split("\n").map((text, n) => {
      const row = document.createElement(n ? "div" : "strong");
      row.textContent = text;
      return row;
    }));
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, room))}px`;
    const below = event.clientY + 18;
    tip.style.top = `${below + tip.offsetHeight < innerHeight ? below : event.clientY - tip.offsetHeight - 12}px`;
  }

  async function enliven(holder) {
    const figure = figures[holder.dataset.chart], still = holder.firstElementChild;
    const place = document.createElement("div");
    const { view } = await embed(place, described(figure), {
      mode: "vega", renderer: "svg", ast: true, actions: false, defaultStyle: false, tooltip: false,
    });
    view.tooltip((_, event, item, value) => tell(event, value));
    await view.runAsync();
    still.replaceWith(place);
    views.set(view, figure);
  }

  function pick(entry, more) {
    const name = entry.dataset.line, alone = picked.has(name) && picked.size === 1;
    if (more) picked[picked.has(name) ? "delete" : "add"](name);
    else {
      picked.clear();
      if (!alone) picked.add(name);
    }
    for (const other of document.querySelectorAll("[data-line]")) {
      other.setAttribute("aria-pressed", picked.has(other.dataset.line));
      other.classList.toggle("aside", picked.size > 0 && !picked.has(other.dataset.line));
    }
    for (const [view, figure] of views) view.signal("shown", shown(figure)).runAsync();
  }

  function listen(entry) {
    entry.tabIndex = 0;
    entry.setAttribute("role", "button");
    entry.setAttribute("aria-pressed", "false");
    entry.addEventListener("click", (event) => pick(entry, event.shiftKey || event.ctrlKey || event.metaKey));
    entry.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      pick(entry, event.shiftKey);
    });
  }

  document.querySelectorAll("[data-line]").forEach(listen);
  document.documentElement.classList.add("alive");
  const watch = new IntersectionObserver((seen) => {
    for (const { isIntersecting, target } of seen) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      enliven(target).catch((error) => console.warn("A chart stays still:", error));
    }
  }, { rootMargin: "300px" });
  document.querySelectorAll("[data-chart]").forEach((holder) => watch.observe(holder));
})();
