// A captioner in the browser: a photo in, its caption out, with the files that `captionlab export` wrote beside this one.
// It computes what caption.py does. Needs onnxruntime-web, which captioner.json says where to find.

export class Captioner {
  constructor(ort, settings, encoder, step) {
    Object.assign(this, {ort, settings, encoder, step});
  }

  // Load the files of `folder`, a URL that ends in a slash.
  static async load(folder) {
    const settings = await (await fetch(new URL("captioner.json", folder))).json();
    const runtime = new URL(settings.onnxruntime_web, folder).href;
    const ort = await import(`${runtime}ort.wasm.bundle.min.mjs`);
    ort.env.wasm.wasmPaths = {wasm: `${runtime}ort-wasm-simd-threaded.wasm`};
    ort.env.wasm.numThreads = 1;  // more need headers that a static server does not send
    const options = {executionProviders: ["wasm"], extra: {session: {disable_quant_qdq: "1"}}};
    const [encoder, step] = await Promise.all(["encoder.onnx", "step.onnx"].map(
      name => ort.InferenceSession.create(new URL(name, folder).href, options)));
    return new Captioner(ort, settings, encoder, step);
  }

  // The best caption of a photo, a Blob in any format that the browser reads.
  async caption(photo) {
    const words = await this.search(await readPhoto(photo, this.settings.pixels, this.settings.preprocessing));
    return words.map(word => this.settings.words[word]).join(" ");
  }

  // Beam search, as in caption.py: the numbers of the words of the best caption.
  async search(pixels) {
    const {beam, length_penalty: penalty, max_words: longest, min_words: fewest, no_repeat_ngram: n} =
      this.settings.decoding;
    const {start, end, pixels: side} = this.settings;
    const whole = numbers => new this.ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [beam]);
    const state = await this.encoder.run({pixels: new this.ort.Tensor("uint8", pixels, [1, side, side, 3])});
    // All hypotheses are equal before the first word, so only the first of them counts there.
    let going = Array.from({length: beam}, (_, row) => (
      {parent: row, word: start, words: [], total: row ? -Infinity : 0}));
    const ended = [];
    for (let length = 1; length <= longest; length++) {
      const found = await this.step.run({
        tokens: whole(going.map(each => each.word)), parents: whole(going.map(each => each.parent)), ...state});
      for (const name in found) if (name.startsWith("next_")) state[name.slice(5)] = found[name];
      const never = going.map(({words}) => new Set([...repeats(words, n), ...(length <= fewest ? [end] : [])]));
      const best = likeliest(found.log_probs, going, never, 2 * beam);
      for (const each of best.slice(0, beam)) {
        if (each.word === end && each.total > -Infinity) {
          ended.push({words: going[each.parent].words, score: each.total / length ** penalty});
        }
      }
      if (ended.length >= beam) break;
      going = best.filter(each => each.word !== end).slice(0, beam)
        .map(each => ({...each, words: [...going[each.parent].words, each.word]}));
      if (length === longest) {  // what has not ended counts as it is
        ended.push(...going.filter(({total}) => total > -Infinity)
          .map(({words, total}) => ({words, score: total / longest ** penalty})));
      }
    }
    return ended.slice(0, beam).reduce((best, each) => each.score > best.score ? each : best).words;
  }
}

// The words that would end a sequence of `n` words that the caption already has; none where `n` is 0.
function repeats(words, n) {
  if (!n) return [];
  const last = words.slice(words.length - n + 1);
  return words.slice(n - 1).filter((_, i) => last.every((word, j) => words[i + j] === word));
}

// The `count` likeliest continuations of the hypotheses, best first; `never` has the words that none may continue with.
function likeliest(logProbs, going, never, count) {
  const words = logProbs.dims[1];
  const best = [];
  going.forEach(({total}, parent) => {
    for (let word = 0; word < words; word++) {
      const logProb = never[parent].has(word) ? -Infinity : logProbs.data[parent * words + word];
      const candidate = {parent, word, total: Math.fround(total + logProb)};
      if (best.length === count && candidate.total <= best[count - 1].total) continue;
      const place = best.findIndex(each => each.total < candidate.total);
      best.splice(place < 0 ? best.length : place, 0, candidate);
      best.length = Math.min(best.length, count);
    }
  });
  return best;
}

// A photo as the encoder reads it: upright, in RGB, on white where it is transparent, squeezed to a square.
export async function readPhoto(photo, side, preprocessing) {
  const bitmap = await createImageBitmap(photo, {imageOrientation: "from-image", colorSpaceConversion: "none"});
  const {width, height} = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const {data} = context.getImageData(0, 0, width, height);
  // Rows of pixels become columns twice, so that each pass resizes along the rows.
  const turned = resizeRows(data, width, height, 4, side, FILTERS[preprocessing]);
  return resizeRows(turned, height, side, 3, side, FILTERS[preprocessing]);
}

// Pillow's resizing of `rows` rows of `size` pixels to `side` pixels, in the same whole numbers. `pixels` has
// `channels` bytes a pixel; the result has three and is transposed: `side` rows of `rows` pixels.
function resizeRows(pixels, size, rows, channels, side, {filter, reach}) {
  const BITS = 22, scale = size / side, stretch = Math.max(scale, 1), support = reach * stretch;
  const resized = new Uint8Array(side * rows * 3);
  for (let x = 0; x < side; x++) {
    const center = (x + 0.5) * scale;
    const from = Math.max(Math.trunc(center - support + 0.5), 0);
    const to = Math.min(Math.trunc(center + support + 0.5), size);
    const weights = Array.from({length: to - from}, (_, i) => filter((from + i - center + 0.5) * (1 / stretch)));
    const sum = weights.reduce((one, other) => one + other, 0);
    const whole = weights.map(weight => Math.trunc(weight / sum * 2 ** BITS + Math.sign(weight) * 0.5));
    for (let y = 0; y < rows; y++) {
      for (let channel = 0; channel < 3; channel++) {
        let total = 1 << (BITS - 1);
        for (let i = 0; i < whole.length; i++) total += pixels[(y * size + from + i) * channels + channel] * whole[i];
        resized[(x * rows + y) * 3 + channel] = Math.min(Math.max(total >> BITS, 0), 255);
      }
    }
  }
  return resized;
}

// By name of the preprocessing: the weight of a pixel at a distance, and the distance from which it is 0.
const FILTERS = {
  square_bilinear: {reach: 1, filter: distance => Math.max(1 - Math.abs(distance), 0)},
  square_bicubic: {reach: 2, filter: bicubic},
};

function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? -0.5 * (((x - 5) * x + 8) * x - 4) : 0;
}
