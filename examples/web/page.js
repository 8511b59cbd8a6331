// What the pages share: elements whose text is text, whoever wrote it, and logging in.

/** An element with attributes (`class`, `data-...`) and children: elements, or texts that stay texts. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A coloured circle with the beginning of a name. */
export function avatar(name) {
  const hue = [...name].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);
  const circle = element("span", { class: "avatar", "aria-hidden": "true" }, [...name].slice(0, 2).join(""));
  circle.style.setProperty("--hue", hue);
  return circle;
}

export function clock(at) {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** Shows what the connection is like. */
export function showState(state, text) {
  const shown = document.querySelector("#state");
  shown.dataset.state = state;
  shown.textContent = text ?? { online: "connected", waiting: "reconnecting", stopped: "ended" }[state];
}

/**
 * Asks who is there, once per tab, and calls `begin` with `{user, session}`: `session()` fetches
 * `{token, gateway, ...}` from the backend, anew each time.
 */
export function login(begin) {
  const form = document.querySelector("#login form");
  const fault = element("p", { class: "note bad", role: "alert", hidden: "" });
  form.append(fault);
  const enter = async (query) => {
    const session = () => askUntilAnswered(`/session?${query}`);
    try {
      await session();
    } catch (error) {
      fault.textContent = error.message;
      fault.hidden = false;
      return;
    }
    const user = query.get("user");
    document.querySelector("#login").hidden = true;
    document.querySelector("#app").hidden = false;
    document.querySelector("#me").textContent = user;
    sessionStorage.setItem("login", query);
    begin({ user, session });
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    enter(new URLSearchParams(new FormData(form)));
  };
  document.querySelector("#leave").onclick = () => {
    sessionStorage.clear();
    location.reload();
  };
  const before = sessionStorage.getItem("login");
  if (before) enter(new URLSearchParams(before));
}

/** JSON from the backend; fails with what it says is wrong. */
export async function ask(path, { token, ...options } = {}) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...options.headers };
  const response = await fetch(path, { ...options, headers });
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim() || `${response.status}`);
  return text ? JSON.parse(text) : undefined;
}

/** The same until the backend answers at all; what it refuses is not asked again. */
export async function askUntilAnswered(path, options) {
  for (let delay = 250; ; delay = Math.min(delay * 2, 5000)) {
    try {
      return await ask(path, options);
    } catch (error) {
      // A TypeError is what fetch says of a backend that can't be reached.
      if (!(error instanceof TypeError)) throw error;
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
}
