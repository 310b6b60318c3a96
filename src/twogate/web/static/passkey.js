// Forms with data-passkey: ask the authenticator, put its answer into the form's hidden field, send the form.
"use strict";
(() => {
  const decode = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
  const encode = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

  const known = (list) => (list || []).map((item) => ({ ...item, id: decode(item.id) }));

  const ask = async (form) => {
    const options = JSON.parse(form.dataset.options);
    options.challenge = decode(options.challenge);
    if (options.allowCredentials) options.allowCredentials = known(options.allowCredentials);
    if (form.dataset.passkey === "get") return navigator.credentials.get({ publicKey: options });
    options.user.id = decode(options.user.id);
    options.excludeCredentials = known(options.excludeCredentials);
    return navigator.credentials.create({ publicKey: options });
  };

  const answerOf = (credential) => {
    const response = {};
    for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) {
      if (credential.response[name]) response[name] = encode(credential.response[name]);
    }
    return { id: credential.id, rawId: encode(credential.rawId), type: credential.type, response };
  };

  const reasons = {
    NotAllowedError: "The passkey was not used: cancelled, not allowed or too late. Try again.",
    InvalidStateError: "This device already holds a passkey for this account.",
    SecurityError: "Passkeys do not work at this address.",
  };

  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const message = form.querySelector("[data-message]");
    form.hidden = false;
    if (!window.PublicKeyCredential) {
      form.querySelector("button").disabled = true;
      message.textContent = "This browser has no passkeys, or the page is not on a secure connection.";
      continue;
    }
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      message.textContent = "";
      try {
        form.elements.namedItem("credential").value = JSON.stringify(answerOf(await ask(form)));
        form.submit();
      } catch (error) {
        message.textContent = reasons[error.name] || "The passkey could not be used.";
      }
    });
  }
})();
