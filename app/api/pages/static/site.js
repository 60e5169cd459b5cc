// The pages work without this. With it: times stay current, tables sort, lists filter, a running epoch refreshes.

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function ago(then, now) {
  const seconds = (now - then) / 1000;
  if (Math.abs(seconds) < 5) return "just now";
  const [size, unit] = UNITS.find(([length]) => Math.abs(seconds) >= length);
  const count = Math.floor(Math.abs(seconds) / size);
  return seconds > 0 ? `${count} ${unit} ago` : `in ${count} ${unit}`;
}

function refreshTimes() {
  for (const shown of document.querySelectorAll("[data-relative]")) {
    const text = ago(Date.parse(shown.closest("time").dateTime), Date.now());
    if (shown.textContent !== text) shown.textContent = text;
  }
}

function sortKey(cell) {
  const text = cell?.dataset.sort ?? cell?.textContent.trim() ?? "";
  if (text === "" || text === "–") return null;
  const plain = text.replaceAll(",", "").replace("−∞", "-Infinity");
  const number = Number(plain);
  return Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, column, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [sortKey(row.cells[column]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[table.tHead.rows.length - 1].cells);
  heads.forEach((head, column) => {
    if (head.dataset.nosort !== undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
}

// <label class="filter" data-filters="ID-OF-TABLE" hidden>…<input type="search"></label>
function makeFilter(label) {
  const rows = document.getElementById(label.dataset.filters)?.tBodies[0]?.rows;
  const input = label.querySelector("input");
  if (!rows || !input) return;
  label.hidden = false;
  const count = label.querySelector("output");
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    if (count) count.textContent = `${shown} of ${rows.length}`;
  });
}

// <button data-copy="TEXT" hidden>: shown where the browser lets a page write to the clipboard
function offerCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("button[data-copy][hidden]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const before = [...button.childNodes];
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => button.replaceChildren(...before), 1500);
    });
  }
}

// What an element is called, whatever its numbers are at the moment.
function nameOf(element) {
  const text = element.getAttribute("href") ?? element.getAttribute("aria-label") ?? element.textContent;
  return `${element.tagName} ${text.replace(/[\d.,]+/g, "#")}`;
}

function namedAs(element) {
  return Array.from(document.querySelectorAll(element.tagName)).filter((one) => nameOf(one) === nameOf(element));
}

// After a change of the section: what the reader opened is open, regions are scrolled as they were, the keyboard is where it was.
function keepingPlace(section, change) {
  const details = () => Array.from(section.querySelectorAll("details"), (one) => [nameOf(one.firstElementChild), one]);
  const regions = () => Array.from(section.querySelectorAll(".scroll"), (one) => [nameOf(one), one]);
  const opened = new Map(details().map(([name, one]) => [name, one.open]));
  const scrolled = new Map(regions().map(([name, one]) => [name, one.scrollLeft]));
  const focused = document.activeElement;
  const place = namedAs(focused).indexOf(focused);
  change();
  for (const [name, one] of details()) one.open = opened.get(name) ?? one.open;
  for (const [name, one] of regions()) one.scrollLeft = scrolled.get(name) ?? 0;
  if (!focused.isConnected) namedAs(focused)[place]?.focus({ preventScroll: true });
}

// <section data-refresh="/fragments/…" data-every="5">: its content is fetched again while the page is looked at. A response
// header X-Refresh: stop ends it, X-Refresh: reload loads the page once more (the epoch has ended).
function keepFresh(section) {
  const pause = Number(section.dataset.every || 5) * 1000;
  let timer = 0;
  async function refresh() {
    timer = 0;
    let wait = pause;
    try {
      const response = await fetch(section.dataset.refresh, { headers: { Accept: "text/html" }, cache: "no-cache" });
      if (!response.ok) throw new Error(String(response.status));
      const order = response.headers.get("X-Refresh");
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      keepingPlace(section, () => {
        for (const other of fresh.querySelectorAll("[data-replaces]")) {
          document.getElementById(other.dataset.replaces)?.replaceWith(document.adoptNode(other.firstElementChild));
          other.remove();
        }
        section.replaceChildren(...document.adoptNode(fresh.body).childNodes);
        offerCopies();
      });
      section.removeAttribute("data-stale");
      if (order === "reload") return location.reload();
      if (order === "stop") return;
    } catch {
      section.setAttribute("data-stale", "");
      wait = pause * 4;
    }
    schedule(wait);
  }
  function schedule(wait) {
    if (!timer && !document.hidden) timer = setTimeout(refresh, wait);
  }
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    timer = 0;
    schedule(0);
  });
  schedule(pause);
}

document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
document.querySelectorAll("[data-filters]").forEach(makeFilter);
document.querySelectorAll("[data-refresh]").forEach(keepFresh);
offerCopies();
refreshTimes();
setInterval(() => document.hidden || refreshTimes(), 10_000);
