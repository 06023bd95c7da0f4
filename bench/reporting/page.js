// Of every page: sorting and filtering tables, opening the run that a link names, light and dark. No inner HTML is
// ever written: names come from records, and may be anything.
function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else if (value === true) found.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) found.setAttribute(name, value);
  }
  found.append(...children.filter(child => child !== null));
  return found;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) =>
    head.firstElementChild.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const value = row => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const order = head.classList.contains("number") ? x - y : x.localeCompare(y, "en", {numeric: true});
        return ascending ? order : -order;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    }),
  );
}

// A search box for the names and settings of a table's rows, and a switch for the rows of failures.
function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 5) return;
  const failures = rows.filter(row => row.dataset.failed !== undefined);
  const search = make("input", {type: "search", placeholder: "ease k=50", autocomplete: "off", spellcheck: "false"});
  const hide = make("input", {type: "checkbox"});
  const told = make("span", {class: "quiet", role: "status"});
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = (hide.checked && row.dataset.failed !== undefined) || !words.every(word => name.includes(word));
      shown += !row.hidden;
    }
    told.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  search.addEventListener("input", apply);
  hide.addEventListener("change", apply);
  apply();
  table
    .closest(".scroll")
    .before(
      make(
        "div",
        {class: "tools"},
        make("label", {}, "Find ", search),
        failures.length
          ? make("label", {}, hide, ` hide ${failures.length === 1 ? "the failure" : `${failures.length} failures`}`)
          : null,
        told,
      ),
    );
}

// The run that the address names: every fold around it is opened, and it gets the focus.
function openNamed() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.matches("details.run")) return;
  for (let fold = target; fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target.scrollIntoView({block: "start"});
  target.querySelector("summary").focus({preventScroll: true});
}

function themeButton() {
  const root = document.documentElement;
  const isDark = () =>
    (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = make("button", {type: "button", class: "theme"});
  const tell = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Show the page ${isDark() ? "light" : "dark"}`);
    document.dispatchEvent(new Event("recscale-theme"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  document.querySelector("header").prepend(button);
  tell();
}

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("table.filterable").forEach(filterable);
themeButton();
window.addEventListener("hashchange", openNamed);
// A page that loads itself again stays where its reader is.
if (performance.getEntriesByType("navigation")[0]?.type !== "reload") openNamed();
