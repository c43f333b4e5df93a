"use strict";
// Puts in place what /live sends: parts of the page, as HTML, each time that they change.

// patch changes an element into next, and touches only what differs: so the scroll position, the
// focus and the selection stay. It finds children by their ids.
function patch(element, next) {
  if (element.isEqualNode(next) || (next.dataset.version && next.dataset.version === element.dataset.version)) return;
  if (!next.querySelector(":scope > [id]")) {
    element.replaceWith(next);
    return;
  }
  const present = new Map(Array.from(element.children, (child) => [child.id, child]));
  const wanted = Array.from(next.children);
  for (const child of wanted) present.delete(child.id);
  for (const child of present.values()) child.remove();
  let place = element.firstElementChild;
  for (const child of wanted) {
    const old = element.querySelector(`:scope > [id="${child.id}"]`);
    if (old && old === place) {
      place = place.nextElementSibling;
      patch(old, child);
    } else {
      if (old) old.remove();
      element.insertBefore(child, place);
    }
  }
}

let ahead = 0; // of the server's clock, in milliseconds

const source = new EventSource("/live");
for (const id of ["jobs", "outbox"]) {
  source.addEventListener(id, (event) => {
    const next = new DOMParser().parseFromString(event.data, "text/html").getElementById(id);
    if (next.dataset.now) ahead = next.dataset.now - Date.now();
    patch(document.getElementById(id), next);
  });
}

const connection = document.getElementById("connection");
function say(text, state) {
  connection.textContent = text;
  connection.dataset.state = state;
  connection.hidden = false;
}
source.addEventListener("open", () => say("Live", "live"));
source.addEventListener("error", () => say("Reconnecting …", "lost"));

// short says how long something takes, as the server does.
function short(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return seconds < 3600 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

setInterval(() => {
  for (const due of document.querySelectorAll("[data-due]")) {
    const left = Math.max(due.dataset.due - Date.now() - ahead, 0);
    due.textContent = short(left / 1000);
  }
}, 100);
