// The page's behaviour. All data from outside (captions, file names, errors) is inserted as text, never as HTML.

const byId = id => document.getElementById(id);
const [frame, invitation, photo, overlay] = ["frame", "invitation", "photo", "overlay"].map(byId);
const [status, error, file, examples] = ["status", "error", "file", "examples"].map(byId);
const [decoding, own, systems] = ["decoding", "own", "systems"].map(byId);

const NO_ANSWER = "The server does not answer. Start captionlab demo again, then reload this page.";
const MAX_OPACITY = 0.82; // of the attention overlay, as in core/attention_overlay.py
let maxBytes = Infinity; // of a photo
let groups = []; // of systems, by training dataset: {dataset, drawn, element, cards}
let current = null; // the photo on display: {blob, name, credit, drawn, digest}
let candidate = null; // a photo that the server has not accepted yet
let requesting = false;
let requestAgain = false;
let pinned = null; // shows the overlay that stays when the pointer leaves

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// --- requests

class RequestError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new RequestError(NO_ANSWER, 0);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  throw new RequestError(answer.error ?? `The server answered with status ${response.status}.`, response.status);
}

async function captionsOf(shown) {
  const query = new URLSearchParams(own.checked ? [] : new FormData(decoding));
  if (shown.digest) {
    try {
      const known = new URLSearchParams([...query, ["photo", shown.digest]]);
      return await (await request(`/caption?${known}`, { method: "POST" })).json();
    } catch (failure) {
      if (failure.status !== 404) throw failure; // the server no longer has the photo: send it again
    }
  }
  return (await request(`/caption?${query}`, { method: "POST", body: shown.blob })).json();
}

// One request at a time; changes made meanwhile lead to one further request with the newest values.
async function refresh() {
  requestAgain = true;
  if (requesting) return;
  requesting = true;
  systems.setAttribute("aria-busy", "true");
  while (requestAgain) {
    requestAgain = false;
    const shown = candidate ?? current;
    if (!shown) break;
    try {
      const answer = await captionsOf(shown);
      if (shown !== (candidate ?? current)) continue; // another photo was chosen meanwhile
      shown.digest = answer.photo;
      if (shown === candidate) show(shown);
      showError("");
      showCaptions(answer.systems);
    } catch (failure) {
      if (shown === candidate) candidate = null;
      showName();
      showError(failure instanceof RequestError ? failure.message : `The page failed: ${failure}`);
    }
  }
  requesting = false;
  systems.setAttribute("aria-busy", "false");
}

// --- the photo

function choose(blob, name, { credit = "", drawn = false } = {}) {
  showError("");
  if (blob.size > maxBytes) {
    showError(`${name} is too large: ${megabytes(blob.size)} MB; the limit is ${megabytes(maxBytes)} MB.`);
    return;
  }
  candidate = { blob, name, credit, drawn, digest: "" };
  status.textContent = `Captioning ${name} …`;
  refresh();
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
}

function show(shown) {
  current = shown;
  candidate = null;
  hideOverlay();
  URL.revokeObjectURL(photo.src);
  photo.src = URL.createObjectURL(shown.blob);
  photo.alt = shown.name;
  photo.hidden = false;
  invitation.hidden = true;
  frame.classList.remove("empty");
  for (const button of examples.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.title === shown.name));
  }
  for (const group of groups) fold(group, group.drawn === shown.drawn);
  showName();
}

photo.addEventListener("load", () => frame.style.setProperty("--shape", photo.naturalWidth / photo.naturalHeight));
photo.addEventListener("error", () => {
  photo.hidden = true;
  invitation.textContent = "The systems can read this photo, but this browser cannot show it.";
  invitation.hidden = false;
});

function showName() {
  status.textContent = current ? [current.name, current.credit].filter(Boolean).join(". ") : "";
}

function showError(message) {
  error.textContent = message;
  error.hidden = !message;
}

function take(transfer, otherwise) {
  const [first] = transfer?.files ?? [];
  if (first) choose(first, first.name || "the pasted photo");
  else showError(otherwise);
}

file.addEventListener("change", () => {
  take(file, "No file was chosen.");
  file.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", event => take(event.clipboardData, "There is no photo in the clipboard. Copy one, then paste it here."));
document.addEventListener("dragover", event => {
  event.preventDefault();
  frame.classList.add("over");
});
document.addEventListener("dragleave", event => {
  if (!event.relatedTarget) frame.classList.remove("over");
});
document.addEventListener("drop", event => {
  event.preventDefault();
  frame.classList.remove("over");
  take(event.dataTransfer, "That was not a file. Save the photo first, then drop the file here.");
});

// --- captions

// Systems that know only drawn scenes cannot describe photos, and those that know only photos cannot describe drawn
// scenes: they are folded away while the other kind is on display.
function groupElement({ dataset, drawn, cards }) {
  const [trained, other, wanted] = drawn ? ["drawn scenes", "photos", "drawn scene"] : [dataset, "drawn scenes", "photo"];
  const note = `These systems cannot describe ${other}. Choose a ${wanted} to try them.`;
  return element("details", {}, element("summary", { textContent: `Trained on ${trained}` }),
    element("p", { className: "note", textContent: note }), cards);
}

function fold({ element }, fits) {
  element.open = fits || groups.length === 1;
  element.querySelector(".note").hidden = fits;
}

function showGroups(about) {
  groups = [...new Set(about.map(system => system.dataset))].map(dataset => {
    const { drawn } = about.find(system => system.dataset === dataset);
    return { dataset, drawn, cards: element("div", { className: "systems" }) };
  });
  for (const group of groups) {
    group.element = groupElement(group);
    fold(group, !group.drawn);
  }
  systems.replaceChildren(...groups.map(group => group.element));
}

function showCards(answers, content) {
  for (const { dataset, cards } of groups) {
    const members = answers.filter(answer => answer.dataset === dataset);
    cards.replaceChildren(...members.map(answer => card(answer, content(answer))));
  }
}

function card(system, content) {
  const about = [system.name, system.encoder, `trained on ${system.dataset}`].join(" · ");
  const heading = element("h3", {}, system.system, element("small", { textContent: about }));
  if (system.decoding) heading.append(element("small", { className: "used", textContent: system.decoding }));
  const made = element("article", { className: "card" }, heading, content);
  made.dataset.system = system.system;
  made.dataset.name = system.name;
  return made;
}

function showCaptions(answers) {
  pinned = null;
  hideOverlay();
  showCards(answers, answer => answer.error
    ? element("p", { textContent: answer.error })
    : element("ol", {}, ...answer.captions.map(captionItem)));
}

function captionItem(caption) {
  const sentence = element("span");
  if (caption.attention) {
    const words = caption.words.map((word, place) => wordButton(word, caption.attention[place]));
    words.forEach((word, place) => sentence.append(place ? " " : "", word));
    sentence.setAttribute("role", "group");
    sentence.setAttribute("aria-label", `${caption.words.join(" ")}: arrow keys move from word to word`);
    moveByArrowKeys(words);
  } else {
    sentence.textContent = caption.words.join(" ");
  }
  if (caption.score === null) return element("li", {}, sentence); // retrieved, or ranked by more than the score
  const score = element("span", { className: "score", textContent: caption.score.toFixed(2).replace("-", "−") });
  return element("li", {}, sentence, score);
}

function wordButton(word, weights) {
  const button = element("button", { type: "button", className: "word", textContent: word });
  const showOwn = () => showOverlay(button, word, weights);
  const pin = () => { pinned = showOwn; showOwn(); };
  button.addEventListener("pointerenter", showOwn);
  button.addEventListener("focus", pin);
  button.addEventListener("click", () => { button.focus(); pin(); });
  button.addEventListener("pointerleave", () => (pinned ? pinned() : hideOverlay()));
  button.addEventListener("blur", () => { pinned = null; hideOverlay(); });
  return button;
}

// A caption is one Tab stop; the arrow keys move from word to word.
function moveByArrowKeys(words) {
  words.forEach((word, place) => {
    word.tabIndex = place ? -1 : 0;
    word.addEventListener("keydown", event => {
      const last = words.length - 1;
      const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      const target = words[Math.min(last, Math.max(0, next))];
      words.forEach(other => { other.tabIndex = other === target ? 0 : -1; });
      target.focus();
    });
  });
}

document.addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  pinned = null;
  hideOverlay();
});

// --- the attention overlay

// One pixel for each region, row by row over the whole photo; the browser enlarges the canvas smoothly.
function showOverlay(button, word, weights) {
  for (const other of systems.querySelectorAll(".shown")) other.classList.remove("shown");
  button.classList.add("shown");
  const side = Math.sqrt(weights.length);
  const peak = Math.max(...weights);
  overlay.width = overlay.height = side;
  const pixels = new ImageData(side, side); // black
  weights.forEach((weight, region) => { pixels.data[4 * region + 3] = 255 * MAX_OPACITY * (1 - weight / (peak || 1)); });
  overlay.getContext("2d").putImageData(pixels, 0, 0);
  overlay.hidden = false;
  status.textContent = `“${word}”: most attention ${position(weights.indexOf(peak), side)}, ${(100 * peak).toFixed(0)} % of it on `
    + `one of ${weights.length} regions.`;
}

function position(region, side) {
  const third = i => Math.min(2, Math.floor((3 * (i + 0.5)) / side));
  const row = ["top", "middle", "bottom"][third(Math.floor(region / side))];
  const column = ["left", "centre", "right"][third(region % side)];
  if (row !== "middle") return `at the ${row} ${column}`;
  return column === "centre" ? "in the centre" : `on the ${column}`;
}

function hideOverlay() {
  for (const other of systems.querySelectorAll(".shown")) other.classList.remove("shown");
  overlay.hidden = true;
  showName();
}

// --- start

function showDecoding() {
  for (const slider of decoding.querySelectorAll("[type=range]")) {
    byId(`${slider.id}-value`).textContent = own.checked ? "own" : slider.value;
  }
}

decoding.addEventListener("input", event => {
  if (event.target !== own) own.checked = false;
  showDecoding();
  refresh();
});
decoding.addEventListener("submit", event => event.preventDefault());

function exampleButton(example) {
  const image = element("img", { src: example.source, alt: example.label, draggable: false });
  const button = element("button", { type: "button", title: example.label }, image);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", async () => {
    try {
      choose(await (await request(example.source)).blob(), example.label, example);
    } catch (failure) {
      showError(failure.message);
    }
  });
  return element("li", {}, button);
}

showDecoding();
frame.classList.add("empty");
try {
  const lineup = await (await request("/systems")).json();
  maxBytes = lineup.max_bytes;
  showGroups(lineup.systems);
  showCards(lineup.systems, () => element("p", { textContent: "No photo chosen yet." }));
  examples.replaceChildren(...(await (await request("/examples")).json()).examples.map(exampleButton));
} catch (failure) {
  showError(failure.message);
}
