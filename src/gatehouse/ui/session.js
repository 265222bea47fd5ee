// Loaded by MLflow's page before its own scripts (see ui.py).
// When the session has ended, the proxy answers MLflow's requests with 401: this leads to sign-in, and back to the very
// page. No request is sent again: what wasn't saved isn't saved behind anybody's back.
(() => {
  "use strict";
  const LOGOUT_USER = "mlflow-logged-out-"; // MLflow's own logout asks with such a name, to forget a password
  const LAST = "gatehouse-sign-in";
  const PAUSE_MS = 15000; // sooner than this, signing in again hasn't helped
  let ended = false;
  let typed = false;

  const signIn = () => {
    sessionStorage.setItem(LAST, String(Date.now()));
    const here = location.pathname + location.search + location.hash;
    location.assign("/oauth2/start?rd=" + encodeURIComponent(here));
  };

  const tell = () => {
    const notice = document.createElement("div");
    notice.id = "gatehouse-session-ended";
    notice.setAttribute("role", "alertdialog");
    notice.setAttribute("aria-label", "Your session has ended");
    notice.style.cssText =
      "position:fixed;inset:0 0 auto 0;z-index:2147483647;padding:12px 16px;background:#fff3cd;color:#3d2f00;" +
      "border-bottom:1px solid #d4b106;font:14px/1.5 system-ui,sans-serif;display:flex;gap:16px;align-items:center";
    const text = document.createElement("span");
    text.textContent =
      "Your session has ended, and the last change was not saved. What you typed is still here: copy it if you need it.";
    const button = document.createElement("button");
    button.textContent = "Sign in again";
    button.style.cssText = "padding:4px 12px;cursor:pointer;white-space:nowrap";
    button.addEventListener("click", signIn);
    notice.append(text, button);
    document.body.append(notice);
  };

  const sessionEnded = () => {
    if (ended) return;
    ended = true;
    const last = Number(sessionStorage.getItem(LAST)) || 0;
    if (typed || Date.now() - last < PAUSE_MS) tell();
    else signIn();
  };

  const own = (url) => new URL(url, document.baseURI).origin === location.origin;

  const fetched = window.fetch;
  window.fetch = async function (...args) {
    const response = await fetched.apply(this, args);
    if (response.status === 401 && own(response.url || location.href)) sessionEnded();
    return response;
  };

  const opened = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method, url, ...rest) {
    if (String(rest[1] ?? "").startsWith(LOGOUT_USER)) {
      ended = true; // the page goes away
      this.send = () => location.assign("/oauth2/sign_out?rd=%2F");
      return undefined;
    }
    this.addEventListener("loadend", () => {
      if (this.status === 401 && own(this.responseURL || location.href)) sessionEnded();
    });
    return opened.call(this, method, url, ...rest);
  };

  // MLflow loads parts of itself late; a script or a style that doesn't come tells no status, so this asks for it.
  addEventListener(
    "error",
    ({ target }) => {
      const url = target?.src || target?.href;
      if (typeof url === "string" && own(url) && !ended) window.fetch("gatehouse/whoami").catch(() => {});
    },
    true,
  );

  addEventListener("input", () => (typed = true), true);
  addEventListener("hashchange", () => (typed = false));

  // Passwords are the identity provider's, and the assistant is closed on this server.
  const style = document.createElement("style");
  style.textContent =
    '#root [data-component-id="account.change_password_button"],[data-assistant-ui]{display:none!important}';
  document.head.append(style);
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
})();
