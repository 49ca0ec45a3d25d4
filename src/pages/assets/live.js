// Keeps the parts marked data-live as new as the node: waits until it moves, asks for this page again, and swaps them.
const line = document.getElementById("live");
const said = document.getElementById("live-said");
const calm = said && said.textContent;
const PAUSE = 300, RETRY_MAX = 30000;
let mark = line && line.dataset.liveMark;
let waiting = null;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const shown = () => new Promise((done) => {
  if (!document.hidden) return done();
  const look = () => {
    if (document.hidden) return;
    document.removeEventListener("visibilitychange", look);
    done();
  };
  document.addEventListener("visibilitychange", look);
});

// How to find the focused element again: by its id, or as the nth link of its part that leads to the same address.
function place(part) {
  const at = document.activeElement;
  if (!at || !part.contains(at)) return null;
  if (at.id) return () => document.getElementById(at.id);
  const same = (root) => [...root.querySelectorAll(at.tagName)].filter((one) => one.getAttribute("href") === at.getAttribute("href"));
  const nth = same(part).indexOf(at);
  return () => same(part)[nth];
}

function swap(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.innerHTML === part.innerHTML) continue;
    const known = new Set([...part.querySelectorAll("[data-key]")].map((one) => one.dataset.key));
    const focus = place(part);
    const wide = [...part.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    part.className = other.className;
    part.replaceChildren(...[...other.childNodes].map((node) => document.importNode(node, true)));
    part.querySelectorAll(".wide").forEach((one, nth) => { one.scrollLeft = wide[nth] || 0; });
    for (const one of part.querySelectorAll("[data-key]")) {
      if (known.size && !known.has(one.dataset.key)) one.classList.add("fresh");
    }
    const again = focus && focus();
    if (again) again.focus({ preventScroll: true });
  }
  // Said aloud only when it changes: readers of screens need not hear each number.
  for (const told of document.querySelectorAll("[data-live-say]")) {
    const other = fresh.getElementById(told.id);
    if (other && other.textContent !== told.textContent) told.textContent = other.textContent;
  }
}

async function ask(url, accept) {
  waiting = new AbortController();
  const limit = setTimeout(() => waiting.abort(), 90000);
  try {
    const answer = await fetch(url, { headers: { Accept: accept }, cache: "no-store", signal: waiting.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    return await answer.text();
  } finally {
    clearTimeout(limit);
  }
}

async function run() {
  line.hidden = false;
  document.addEventListener("visibilitychange", () => { if (document.hidden && waiting) waiting.abort(); });
  let retry = 1000;
  for (;;) {
    await shown();
    try {
      const began = Date.now();
      await ask(`${line.dataset.liveUrl}?mark=${encodeURIComponent(mark)}&timeout=${line.dataset.liveEvery}`, "application/json");
      const fresh = new DOMParser().parseFromString(await ask(location.href, "text/html"), "text/html");
      const other = fresh.getElementById("live");
      if (!other) throw new Error("another page");
      // A page that another node drew for this one has a mark of that one, which this one never waits for.
      const isVain = other.dataset.liveMark === mark && Date.now() - began < PAUSE;
      mark = other.dataset.liveMark;
      swap(fresh);
      retry = 1000;
      line.classList.remove("stuck");
      if (said.textContent !== calm) said.textContent = calm;
      await sleep(isVain ? 1000 * line.dataset.liveEvery : PAUSE);
    } catch {
      if (document.hidden) continue;
      line.classList.add("stuck");
      said.textContent = "Not up to date: this node does not answer. It is asked again and again.";
      await sleep(retry);
      retry = Math.min(retry * 2, RETRY_MAX);
    }
  }
}

if (line) run();
