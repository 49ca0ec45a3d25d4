// Names while one types into the search field; without script the field is a plain form.
const field = document.getElementById("find");
const root = document.body.dataset.root;
const PAUSE_MS = 120;
let timer = 0, asked = "", at = -1, flight = null;

const list = document.createElement("ul");
list.id = "names";
list.className = "names";
list.setAttribute("role", "listbox");
list.setAttribute("aria-label", "Packages");
list.hidden = true;
field.after(list);
field.setAttribute("role", "combobox");
field.setAttribute("aria-autocomplete", "list");
field.setAttribute("aria-controls", list.id);
field.setAttribute("aria-expanded", "false");

function show(is_open) {
  list.hidden = !is_open;
  field.setAttribute("aria-expanded", String(is_open));
  choose(-1);
}

function choose(next) {
  at = next;
  for (const [number, item] of [...list.children].entries()) {
    item.setAttribute("aria-selected", String(number === at));
    if (number === at) item.scrollIntoView({ block: "nearest" });
  }
  if (at < 0) field.removeAttribute("aria-activedescendant");
  else field.setAttribute("aria-activedescendant", list.children[at].id);
}

function draw(names) {
  list.replaceChildren(...names.map((name, number) => {
    const item = document.createElement("li");
    item.id = "name-" + number;
    item.setAttribute("role", "option");
    item.dataset.link = name.link;
    const own = document.createElement("strong"), where = document.createElement("span");
    own.textContent = name.name;
    where.textContent = " " + name.index;
    where.className = "quiet";
    item.append(own, where);
    // The field keeps the focus, so the press must not take it.
    item.addEventListener("mousedown", (event) => event.preventDefault());
    item.addEventListener("click", () => { location.href = name.link; });
    return item;
  }));
  show(names.length > 0);
}

async function ask() {
  const text = field.value.trim();
  if (text === asked) return;
  asked = text;
  if (flight) flight.abort();
  if (!text) return show(false);
  flight = new AbortController();
  try {
    const address = root + "/+search/suggest?query=" + encodeURIComponent(text);
    const answer = await fetch(address, { signal: flight.signal, headers: { Accept: "application/json" } });
    if (answer.ok && text === field.value.trim()) draw((await answer.json()).result);
  } catch {
    // A newer question took its place, or the server is away: the form still works.
  }
}

field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, PAUSE_MS); });
field.addEventListener("blur", () => show(false));
field.addEventListener("keydown", (event) => {
  const count = list.children.length;
  if (event.key === "Escape" && !list.hidden) { event.preventDefault(); show(false); }
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && count) {
    event.preventDefault();
    if (list.hidden) show(true);
    const step = event.key === "ArrowDown" ? 1 : -1;
    choose(at < 0 && step < 0 ? count - 1 : at + step >= count ? -1 : at + step);
  }
  if (event.key === "Enter" && !list.hidden && at >= 0) {
    event.preventDefault();
    location.href = list.children[at].dataset.link;
  }
});
