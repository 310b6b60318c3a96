// Pages with a region marked data-live: fetch the page anew whenever the server says that something changed, and put
// its region in the place of the old one. Nothing is replaced under somebody's hands: not while the region holds the
// focus or an opened detail. Without this script the page is as it was when it was loaded.
"use strict";
(() => {
  const status = document.querySelector("[data-live-status]");
  let due = false;
  let busy = false;

  const region = () => document.querySelector("[data-live]");
  const inUse = () => region().contains(document.activeElement) || region().querySelector("details[open]") !== null;

  const refresh = async () => {
    if (busy || !due || document.hidden || inUse()) return;
    busy = true;
    due = false;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", headers: { Accept: "text/html" } });
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("[data-live]");
      // A login page, or a refusal: whoever looks finds out with the next click.
      if (!answer.ok || next === null) throw new Error("the page is not to be had");
      if (inUse()) {
        due = true;
      } else if (next.innerHTML !== region().innerHTML) {
        const told = next.dataset.live !== region().dataset.live;
        region().replaceWith(document.importNode(next, true));
        if (told) status.textContent = region().dataset.live;
      }
    } catch {
      status.textContent = "This page is not kept up to date any more. Load it again.";
    } finally {
      busy = false;
    }
  };

  const events = new EventSource("/console/events");
  events.addEventListener("changed", () => {
    due = true;
    refresh();
  });
  // What had to wait: until the hands are off, or the page is looked at again.
  setInterval(refresh, 1000);
})();
