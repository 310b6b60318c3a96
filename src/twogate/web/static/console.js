// What htmx does not do by itself. Nothing is replaced under somebody's hands: not while the page's live region holds the
// focus, a selection or an opened detail, and not while nobody looks. Only the region of this very page may come into
// it: no login page, no refusal. And people are told. Without scripts the page is as it was when it was loaded.
"use strict";
(() => {
  const FAILED = "This did not work. Load the page again.";
  const status = document.querySelector("[data-live-status]");
  let due = false;
  let then = null;

  const region = () => document.getElementById("live");
  // What is no fault is old news after a while.
  let told = null;
  const tell = (text, lasting = false) => {
    clearTimeout(told);
    if (status.textContent !== text) status.textContent = text;
    if (text && !lasting) told = setTimeout(() => tell(""), 8000);
  };
  let stale = false;
  const isStale = () => {
    stale = true;
    tell("This page is not kept up to date now. Load it again.", true);
  };
  const isFresh = () => {
    if (stale) tell("");
    stale = false;
  };
  const inUse = () => {
    const held = document.activeElement;
    const selected = getSelection();
    return (
      document.hidden ||
      (held.matches("a, button, input, select, textarea, summary") && region().contains(held)) ||
      (!selected.isCollapsed && region().contains(selected.anchorNode)) ||
      region().querySelector("details[open]") !== null
    );
  };
  const parsed = (text) => new DOMParser().parseFromString(text, "text/html");
  const on = (name, answer) => document.body.addEventListener(`htmx:${name}`, answer);

  // A page that asks for newer events says which it has, and is told how far it was looked if there is none.
  on("configRequest", (event) => {
    const { elt, parameters } = event.detail;
    if (elt === region() && elt.dataset.seen) parameters.after = elt.dataset.seen;
  });
  on("afterRequest", (event) => {
    const { elt, xhr } = event.detail;
    if (elt === region() && xhr.status === 204) elt.dataset.seen = xhr.getResponseHeader("Twogate-Seen");
  });

  on("beforeRequest", (event) => {
    if (event.detail.elt !== region() || !inUse()) return;
    event.preventDefault();
    due = true;
  });

  on("beforeSwap", (event) => {
    const { requestConfig, xhr, shouldSwap } = event.detail;
    if (!shouldSwap) return;
    const elt = requestConfig.elt;
    const live = elt === region();
    const next = parsed(event.detail.serverResponse).getElementById("live");
    const ours = next !== null && new URL(xhr.responseURL).pathname === location.pathname;
    if (!ours) {
      // A login page: whoever has just done something goes there, whoever only looks finds out with the next click.
      event.detail.shouldSwap = false;
      if (live) isStale();
      else location.reload();
      return;
    }
    if (live && inUse()) {
      event.detail.shouldSwap = false;
      due = true;
      return;
    }
    if (live && next.innerHTML === region().innerHTML) {
      event.detail.shouldSwap = false;
      if (next.dataset.seen) region().dataset.seen = next.dataset.seen;
    }
    if (elt.matches("form[method=get]")) history.replaceState(null, "", xhr.responseURL);
    then = elt.dataset.then || null;
    isFresh();
    if (next.dataset.live !== region().dataset.live) tell(next.dataset.live);
  });

  on("afterSwap", () => {
    // Where somebody was is where they go on, though the button that they pressed is gone.
    const place = then && (document.getElementById(then) || region());
    then = null;
    if (place) place.focus({ preventScroll: true });
  });

  on("responseError", (event) => {
    const { elt, xhr } = event.detail;
    // The server is busy, and says how it is a little later.
    if (elt === region() && xhr.status === 429) {
      due = true;
      return;
    }
    const said = parsed(xhr.responseText).querySelector("[role=alert]");
    if (elt === region()) isStale();
    else tell(said ? `${said.textContent.trim()} Load the page again.` : FAILED, true);
  });
  on("sendError", (event) => (event.detail.elt === region() ? isStale() : tell(FAILED, true)));
  on("sseError", (event) => {
    if (event.detail.source.readyState === EventSource.CLOSED) isStale();
  });
  on("sseOpen", isFresh);

  // What had to wait: until the hands are off, or the page is looked at again.
  setInterval(() => {
    if (!due || inUse()) return;
    due = false;
    htmx.trigger(region(), "due");
  }, 1000);
})();
