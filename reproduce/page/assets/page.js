"use strict";
(() => {
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const button = (text, act) => {
    const made = make("button", { type: "button", textContent: text });
    made.addEventListener("click", act);
    return made;
  };
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("said").textContent = text; };

  // Light and dark: the system's choice until the reader makes another.
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (act) => { try { return act(localStorage); } catch { return null; } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const theme = button("", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered((store) => store.setItem("theme", root.dataset.theme));
    name();
  });
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  const chosen = remembered((store) => store.getItem("theme"));
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  theme.id = "theme";
  theme.setAttribute("aria-label", "Switch between light and dark");
  dark.addEventListener("change", name);
  name();
  document.querySelector("header").append(theme);

  // Tables: the whole value where a cell has one, else its text.
  const text = (cell) => cell.dataset.value ?? cell.textContent.trim().replace(/\s+/g, " ");
  const order = new Intl.Collator("en", { numeric: true });
  const sort = (table, place, descending) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row, line) => {
      const value = text(row.cells[place]);
      return { row, line, value, number: value === "" ? NaN : Number(value) };
    });
    const numeric = keyed.every((one) => one.value === "" || !Number.isNaN(one.number));
    const compare = (a, b) => (numeric ? a.number - b.number : order.compare(a.value, b.value));
    keyed.sort((a, b) => {
      if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "") || a.line - b.line;
      return (descending ? compare(b, a) : compare(a, b)) || a.line - b.line;
    });
    body.append(...keyed.map((one) => one.row));
  };
  const csv = (table) => [table.tHead.rows[0], ...table.tBodies[0].rows].filter((row) => !row.hidden)
    .map((row) => [...row.cells].map(text)
      .map((value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value)).join(","))
    .join("\n") + "\n";
  const copy = async (words) => {
    try {
      await navigator.clipboard.writeText(words);
      return true;
    } catch { // an older browser, or a page from a file
      const area = make("textarea", { value: words, className: "hidden" });
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  for (const table of all("table")) {
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const by = button("", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, place, descending);
      });
      by.append(...head.childNodes);
      head.append(by);
    });
    const copied = button("Copy as CSV", async () => {
      const done = await copy(csv(table));
      copied.textContent = done ? "Copied" : "Not copied";
      say(done ? "The table is copied as CSV." : "The browser does not let this page copy.");
      setTimeout(() => { copied.textContent = "Copy as CSV"; }, 2000);
    });
    copied.setAttribute("aria-label", `Copy as CSV: ${table.caption.textContent}`);
    table.closest(".table").prepend(make("div", { className: "tools" }, copied));
  }

  // Claims of one verdict.
  const filters = all(".counts li").map((item) => {
    const filter = make("button", { type: "button" }, ...item.childNodes);
    filter.setAttribute("aria-pressed", "false");
    filter.addEventListener("click", () => {
      const on = filter.getAttribute("aria-pressed") !== "true";
      for (const other of filters) other.setAttribute("aria-pressed", String(on && other === filter));
      let shown = 0;
      for (const row of all("#scorecard tbody tr")) {
        row.hidden = on && row.dataset.verdict !== item.dataset.verdict;
        shown += !row.hidden;
      }
      say(`${shown} claims are shown.`);
    });
    item.append(filter);
    return filter;
  });

  // Figures, enlarged; Escape closes a dialog, and the focus goes back to the figure.
  const zoom = document.getElementById("zoom");
  const frame = make("div", { className: "frame", tabIndex: 0 });
  const resize = button("Larger", () => {
    resize.textContent = frame.classList.toggle("large") ? "Smaller" : "Larger";
  });
  zoom.append(make("div", { className: "tools" }, resize, button("Close", () => zoom.close())), frame);
  for (const image of all("figure img")) {
    const opener = button("", () => {
      frame.replaceChildren(make("img", { src: image.src, alt: image.alt }));
      frame.classList.remove("large");
      resize.textContent = "Larger";
      zoom.showModal();
    });
    opener.setAttribute("aria-label", `Enlarge. ${image.alt}`);
    image.replaceWith(opener);
    opener.append(image);
  }
  zoom.addEventListener("close", () => frame.replaceChildren());

  // The contents stand open where there is room beside the text.
  const contents = document.querySelector(".contents");
  const wide = matchMedia("(min-width: 84rem)");
  const unfold = () => { contents.open = wide.matches; };
  wide.addEventListener("change", unfold);
  unfold();

  // Where a link leads into what is folded, it is unfolded; on paper all text is.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open]):not(.all):not(.movie)");
    for (const box of folded) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of folded) box.open = false; });
})();
