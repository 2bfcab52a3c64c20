// The page's behaviour. Everything that came from outside (captions, file names, errors) goes in as text, never as HTML.

const byId = id => document.getElementById(id);
const [frame, invitation, photo, heat] = ["frame", "invitation", "photo", "heat"].map(byId);
const [glance, trouble, file, examples] = ["glance", "trouble", "file", "examples"].map(byId);
const [decoding, systems] = ["decoding", "systems"].map(byId);

const GONE = "The server does not answer. Start captionlab demo again, then reload this page.";
let limit = Infinity; // bytes of a photo
let current = null; // the photo in sight: {blob, name, credit, digest}
let candidate = null; // one that has yet to be understood
let asking = false;
let askAgain = false;
let pinned = null; // the word whose look stays when the pointer leaves

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// --- talking to the server

class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refusal(GONE, 0);
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refusal(said.error ?? `The server answered with status ${response.status}.`, response.status);
}

async function captionsOf(shown) {
  const wanted = new URLSearchParams(new FormData(decoding));
  if (shown.digest) {
    try {
      const known = new URLSearchParams([...wanted, ["photo", shown.digest]]);
      return await (await ask(`/caption?${known}`, { method: "POST" })).json();
    } catch (error) {
      if (error.status !== 404) throw error; // the server has forgotten the photo: it is sent again
    }
  }
  return (await ask(`/caption?${wanted}`, { method: "POST", body: shown.blob })).json();
}

// One request at a time; whatever changed meanwhile is asked for once, with the newest values.
async function refresh() {
  askAgain = true;
  if (asking) return;
  asking = true;
  systems.setAttribute("aria-busy", "true");
  while (askAgain) {
    askAgain = false;
    const shown = candidate ?? current;
    if (!shown) break;
    try {
      const answer = await captionsOf(shown);
      if (shown !== (candidate ?? current)) continue; // another photo was chosen meanwhile; its own turn comes
      shown.digest = answer.photo;
      if (shown === candidate) show(shown);
      complain("");
      write(answer.systems);
    } catch (error) {
      if (shown === candidate) candidate = null;
      mention();
      complain(error instanceof Refusal ? error.message : `The page failed: ${error}`);
    }
  }
  asking = false;
  systems.setAttribute("aria-busy", "false");
}

// --- the photo

function choose(blob, name, credit = "") {
  complain("");
  if (blob.size > limit) {
    complain(`${name} is too large: ${megabytes(blob.size)} MB; the limit is ${megabytes(limit)} MB.`);
    return;
  }
  candidate = { blob, name, credit, digest: "" };
  glance.textContent = `Looking at ${name} …`;
  refresh();
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
}

function show(shown) {
  current = shown;
  candidate = null;
  hideLook();
  URL.revokeObjectURL(photo.src);
  photo.src = URL.createObjectURL(shown.blob);
  photo.alt = shown.name;
  photo.hidden = false;
  invitation.hidden = true;
  frame.classList.remove("empty");
  for (const button of examples.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.title === shown.name));
  }
  mention();
}

photo.addEventListener("load", () => frame.style.setProperty("--shape", photo.naturalWidth / photo.naturalHeight));
photo.addEventListener("error", () => {
  photo.hidden = true;
  invitation.textContent = "The systems can read this photo, but this browser cannot show it.";
  invitation.hidden = false;
});

function mention() {
  glance.textContent = current ? [current.name, current.credit].filter(Boolean).join(". ") : "";
}

function complain(sentence) {
  trouble.textContent = sentence;
  trouble.hidden = !sentence;
}

function take(transfer, otherwise) {
  const [first] = transfer?.files ?? [];
  if (first) choose(first, first.name || "the pasted photo");
  else complain(otherwise);
}

file.addEventListener("change", () => {
  take(file, "No file was chosen.");
  file.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", event => take(event.clipboardData, "The clipboard holds no photo. Copy one, then paste it here."));
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
  take(event.dataTransfer, "That was no file. Save the photo first, then drop the file here.");
});

// --- captions

function percent(probability) {
  const share = 100 * probability;
  return share < 0.001 ? "< 0.001 %" : `${share >= 10 ? share.toFixed(0) : share.toPrecision(2)} %`;
}

function head(system) {
  const about = element("small", { textContent: [system.name, system.encoder].filter(Boolean).join(" · ") });
  return element("h2", {}, system.system, about);
}

function card(system, ...content) {
  const made = element("article", { className: "card" }, head(system), ...content);
  made.dataset.system = system.system;
  made.dataset.name = system.name;
  return made;
}

function write(answers) {
  pinned = null;
  hideLook();
  systems.replaceChildren(...answers.map(answer => {
    if (answer.error) return card(answer, element("p", { textContent: answer.error }));
    return card(answer, element("ol", {}, ...answer.captions.map(line)));
  }));
}

function line(caption) {
  const sentence = element("span");
  if (caption.attention) {
    const words = caption.words.map((word, place) => wordButton(word, caption.attention[place]));
    words.forEach((word, place) => sentence.append(place ? " " : "", word));
    sentence.setAttribute("role", "group");
    sentence.setAttribute("aria-label", `${caption.words.join(" ")}: arrow keys move from word to word`);
    rove(words);
  } else {
    sentence.textContent = caption.words.join(" ");
  }
  const probability = element("span", { className: "probability", textContent: percent(caption.probability) });
  return element("li", {}, sentence, probability);
}

function wordButton(word, look) {
  const button = element("button", { type: "button", className: "word", textContent: word });
  const see = () => showLook(button, word, look);
  button.addEventListener("pointerenter", see);
  button.addEventListener("focus", () => { pinned = see; see(); });
  button.addEventListener("click", () => { button.focus(); pinned = see; see(); });
  button.addEventListener("pointerleave", () => (pinned ? pinned() : hideLook()));
  button.addEventListener("blur", () => { pinned = null; hideLook(); });
  return button;
}

// One Tab stop a sentence; the arrow keys go from word to word.
function rove(words) {
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
  hideLook();
});

// --- where attention looked

// From dark where it did not look, through warm, to clear where it looked most: red, green, blue, opacity.
const RAMP = [[12, 8, 38, 0.78], [86, 20, 110, 0.62], [214, 70, 70, 0.42], [255, 190, 60, 0.22], [255, 240, 170, 0.04]];

function heatColour(level) {
  const place = level * (RAMP.length - 1);
  const below = Math.min(Math.floor(place), RAMP.length - 2);
  return RAMP[below].map((value, i) => value + (place - below) * (RAMP[below + 1][i] - value));
}

// Regions lie row by row over the whole photo, squeezed to a square; the levels are blended, then coloured.
function drawHeat(look) {
  const side = Math.sqrt(look.length);
  const peak = Math.max(...look) || 1;
  const pixels = 112;
  heat.width = heat.height = pixels;
  const painted = new ImageData(pixels, pixels);
  const at = (row, column) => look[row * side + column] / peak;
  const between = i => {
    const place = Math.min(side - 1, Math.max(0, ((i + 0.5) / pixels) * side - 0.5));
    const low = Math.min(Math.floor(place), Math.max(0, side - 2));
    return [low, Math.min(low + 1, side - 1), place - low];
  };
  for (let y = 0; y < pixels; y++) {
    const [top, bottom, down] = between(y);
    for (let x = 0; x < pixels; x++) {
      const [left, right, along] = between(x);
      const level = (1 - down) * ((1 - along) * at(top, left) + along * at(top, right))
        + down * ((1 - along) * at(bottom, left) + along * at(bottom, right));
      const [red, green, blue, opacity] = heatColour(level);
      painted.data.set([red, green, blue, 255 * opacity], 4 * (y * pixels + x));
    }
  }
  heat.getContext("2d").putImageData(painted, 0, 0);
}

function inWords(look) {
  const side = Math.sqrt(look.length);
  const brightest = look.indexOf(Math.max(...look));
  const third = i => Math.min(2, Math.floor((3 * (i + 0.5)) / side));
  const row = ["top", "middle", "bottom"][third(Math.floor(brightest / side))];
  const column = ["left", "centre", "right"][third(brightest % side)];
  const place = row === "middle" ? (column === "centre" ? "centre" : column) : `${row} ${column}`;
  return `${place}, where ${percent(look[brightest])} of its attention met one of ${look.length} regions`;
}

function showLook(button, word, look) {
  for (const other of systems.querySelectorAll(".shown")) other.classList.remove("shown");
  button.classList.add("shown");
  drawHeat(look);
  heat.hidden = false;
  glance.textContent = `“${word}”: it looked most at the ${inWords(look)}.`;
}

function hideLook() {
  for (const other of systems.querySelectorAll(".shown")) other.classList.remove("shown");
  heat.hidden = true;
  mention();
}

// --- beginning

function sayValues() {
  for (const input of decoding.querySelectorAll("input")) byId(`${input.id}-value`).textContent = input.value;
}

decoding.addEventListener("input", () => {
  sayValues();
  refresh();
});
decoding.addEventListener("submit", event => event.preventDefault());

function exampleButton(example) {
  const image = element("img", { src: example.source, alt: example.label, draggable: false });
  const button = element("button", { type: "button", title: example.label }, image);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", async () => {
    try {
      choose(await (await ask(example.source)).blob(), example.label, example.credit);
    } catch (error) {
      complain(error.message);
    }
  });
  return element("li", {}, button);
}

sayValues();
frame.classList.add("empty");
try {
  const lineup = await (await ask("/systems")).json();
  limit = lineup.max_bytes;
  systems.replaceChildren(...lineup.systems.map(system => card(system, element("p", { textContent: "waits for a photo" }))));
  examples.replaceChildren(...(await (await ask("/examples")).json()).examples.map(exampleButton));
} catch (error) {
  complain(error.message);
}
