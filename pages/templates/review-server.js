// What the page asks of its server. Everything lies below the page's own folder; changes carry the page's token.
const token = document.getElementById("review").dataset.token;
const folder = location.pathname.replace(/[^/]*$/, "");

export class Refused extends Error {
  constructor(message, status, conflict) {
    super(message);
    this.status = status;
    this.conflict = conflict;
  }
}

async function answerOf(promise) {
  let response;
  try {
    response = await promise;
  } catch {
    throw new Refused("The server does not answer. Start `sortline review` again and open its new link; all that was saved is there.", 0, false);
  }
  const text = await response.text();
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Refused(text || "the server gave no answer", response.status, false);
  }
  if (!response.ok) throw new Refused(found.error, response.status, Boolean(found.conflict));
  return found;
}

export const get = (name, given = {}) => answerOf(fetch(folder + name + "?" + new URLSearchParams(given)));

export const post = (name, body) => answerOf(fetch(folder + name, {
  method: "POST",
  headers: { "Content-Type": "application/json", "X-Sortline-Token": token },
  body: JSON.stringify(body),
}));

export const small = (id) => folder + "small/" + id;
export const large = (id) => folder + "large/" + id;
