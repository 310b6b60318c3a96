// The link's secret stands in its fragment, which browsers send to nobody: move it into the form, and off the screen.
"use strict";
(() => {
  const take = () => {
    const secret = location.hash.slice(1);
    if (!secret) return;
    document.getElementById("secret").value = secret;
    document.getElementById("secret-field").hidden = true;
    history.replaceState(null, "", location.pathname);
  };
  take();
  // A link that is opened while the page is shown only changes the fragment.
  window.addEventListener("hashchange", take);
})();
