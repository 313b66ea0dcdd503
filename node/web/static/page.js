// Keeps the parts marked data-live up to date. Without it every page still works; it is only not live.
"use strict";

const link = document.querySelector("[data-link]");
const part = document.querySelector("[data-live]");
let source = null;
let fetching = false;
let wanted = false;
let seenAt = new Date();

function say(state, words) {
  link.dataset.link = state;
  if (link.textContent !== words) link.textContent = words;
}

function lost(why) {
  say("lost", `${why}; trying again. What you see is from ${seenAt.toLocaleTimeString()}.`);
}

// Times come in UTC; people read their own clock, and the foot of the page says which that is.
function localise(root) {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const local = at.toLocaleString("sv-SE"); // 2026-11-21 03:35:32: no month can be taken for a day
    if ("ago" in time.dataset) time.title = local;
    else time.textContent = local;
  }
}

// Make *old* like *fresh*, touching only what differs: focus, scroll position and loaded pictures stay.
function morph(old, fresh) {
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  let spot = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const twin = twinOf(old, spot, child);
    if (twin === null) {
      old.insertBefore(child, spot);
      continue;
    }
    if (child.id && twin !== spot) {
      old.insertBefore(twin, spot);
    } else {
      while (spot !== twin) spot = dropped(spot);
      spot = twin.nextSibling;
    }
    if (twin.nodeType === Node.ELEMENT_NODE) {
      if (!twin.isEqualNode(child)) morph(twin, child);
    } else if (twin.nodeValue !== child.nodeValue) {
      twin.nodeValue = child.nodeValue;
    }
  }
  while (spot !== null) spot = dropped(spot);
}

function dropped(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

// A row is found by its id wherever it stands; another element is the next of its kind; text is found by its place.
function twinOf(parent, spot, child) {
  if (child.id) return [...parent.children].find((one) => one.id === child.id) ?? null;
  const akin = (one) => one !== null && one.nodeName === child.nodeName && !one.id;
  if (child.nodeType === Node.ELEMENT_NODE) {
    for (let one = spot; one !== null; one = one.nextSibling) {
      if (akin(one) && one.className === child.className) return one;
    }
  }
  return akin(spot) ? spot : null;
}

// A button must not move away under a pointer that is about to press it; a finger does not hover.
function held() {
  return matchMedia("(hover: hover)").matches && part.querySelector("[data-hold] button:hover, [data-hold] button:active") !== null;
}

async function refresh() {
  if (part === null) return;
  if (fetching) {
    wanted = true;
    return;
  }
  fetching = true;
  try {
    await bring();
  } catch (why) {
    lost("Connection lost");
  } finally {
    fetching = false;
  }
  if (wanted) {
    wanted = false;
    refresh();
  }
}

async function bring() {
  const answer = await fetch(part.dataset.live, { headers: { Accept: "text/html" }, cache: "no-store" });
  if (!answer.ok) {
    lost(`The node answers ${answer.status}`);
    return;
  }
  const fresh = part.cloneNode(false);
  fresh.innerHTML = await answer.text();
  localise(fresh);
  while (held()) {
    say("held", "Held while you point at a button");
    await new Promise((resume) => setTimeout(resume, 200));
  }
  morph(part, fresh);
  seenAt = new Date();
  if (source !== null && source.readyState === EventSource.OPEN) say("on", "Live");
}

function listen() {
  if (source !== null) source.close();
  source = new EventSource("/live");
  source.addEventListener("open", () => say("on", "Live"));
  source.addEventListener("change", refresh);
  source.addEventListener("trouble", () => lost("The database does not answer"));
  source.addEventListener("error", () => {
    lost("Connection lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  });
}

// A browser keeps few connections to one server: a page that nobody sees gives its own back.
function followVisibility() {
  if (document.hidden && source !== null) {
    source.close();
    source = null;
  } else if (!document.hidden && source === null) {
    listen();
  }
}

localise(document);
document.querySelector("[data-zone]").textContent = `Times in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
if (part === null) {
  say("none", "");
} else {
  say("off", "Connecting");
  followVisibility();
  document.addEventListener("visibilitychange", followVisibility);
  setInterval(() => document.hidden || refresh(), 30000); // ages grow even when nothing happens
}
