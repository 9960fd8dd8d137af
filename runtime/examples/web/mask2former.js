// Finds instances with a model that `mask2former export` wrote as ONNX, in a browser.
//
//     import * as ort from "./ort/ort.wasm.min.mjs";
//     import { load } from "./mask2former.js";
//     const model = await load(ort, await (await fetch("model.onnx")).arrayBuffer());
//     for (const { name, score, mask } of await model.predict(imageData)) ...
//
// The rules are those of mask2former_runtime: images are resized as Pillow resizes them (BILINEAR),
// normalised and padded as the file's metadata say, and masks have the size of the image.

const FORMAT = "mask2former-export";
const VERSION = 1;

/** Opens a model: `ort` is onnxruntime-web, `bytes` the content of an ONNX file. */
export async function load(ort, bytes) {
  const metadata = readMetadata(new Uint8Array(bytes));
  const session = await ort.InferenceSession.create(bytes);
  return new Model(ort, session, metadata);
}

class Model {
  constructor(ort, session, metadata) {
    Object.assign(this, { ort, session, metadata });
  }

  /**
   * Finds the instances in an image, the best first.
   *
   * @param {ImageData} image of any size.
   * @param {number} threshold the lowest score to keep; by default that of the file.
   * @returns {Promise<{label: number, name: string, score: number, mask: Uint8Array}[]>} masks hold
   *     1 where the object is and 0 elsewhere, row by row.
   */
  async predict(image, threshold = this.metadata.postprocessing.threshold) {
    const size = [image.height, image.width];
    const spec = this.metadata.input;
    const resized = fittingSize(size, spec);
    const padded = paddedSize(resized, spec);
    const batch = spec.fixed.batch ?? 1;
    const input = new Float32Array(batch * 3 * padded[0] * padded[1]);
    fillInput(input, resize(image, resized), resized, padded, spec);
    const images = new this.ort.Tensor("float32", input, [batch, 3, ...padded]);
    const { logits, masks } = await this.session.run({ images });
    const [, queries, outputs] = logits.dims;
    const [h, w] = masks.dims.slice(2);
    const rows = axis(h, padded[0], resized[0], size[0]);
    const columns = axis(w, padded[1], resized[1], size[1]);
    const { names } = this.metadata.classes;
    const found = [];
    const known = new Map(); // masks by query
    for (const { query, label, probability } of this.candidates(logits.data, queries, outputs)) {
      if (probability < threshold) break; // the score is at most as high
      if (!known.has(query)) {
        const part = masks.data.subarray(query * h * w, (query + 1) * h * w);
        known.set(query, maskOf(part, w, rows, columns));
      }
      const { mask, area, mean } = known.get(query);
      const score = Math.fround(probability * Math.fround(mean));
      if (area > 0 && score >= threshold) found.push({ label, name: names[label], score, mask });
    }
    return found.sort((a, b) => b.score - a.score);
  }

  /** The most probable pairs of a query and a class, the best first. */
  candidates(logits, queries, outputs) {
    const { things } = this.metadata.classes;
    const found = [];
    for (let query = 0; query < queries; ++query) {
      const row = logits.subarray(query * outputs, (query + 1) * outputs);
      const largest = row.reduce((a, b) => Math.max(a, b));
      const powers = Array.from(row, (x) => Math.exp(x - largest));
      const sum = powers.reduce((a, b) => a + b);
      for (let label = 0; label + 1 < outputs; ++label) { // the last one is "no object"
        found.push({ query, label, probability: Math.fround(powers[label] / sum) });
      }
    }
    return found
      .sort((a, b) => b.probability - a.probability)
      .slice(0, this.metadata.postprocessing.max_detections)
      .filter(({ label }) => things === null || things.includes(label));
  }
}

/** Reads the metadata of an ONNX file, which onnxruntime-web does not give. */
export function readMetadata(bytes) {
  const content = metadataText(bytes);
  if (content?.format !== FORMAT) {
    throw new Error("This is not an ONNX file that mask2former export wrote.");
  }
  if (content.version > VERSION) {
    throw new Error(`The file is of version ${content.version}; this page knows ${VERSION}.`);
  }
  if (content.outputs !== "queries") {
    throw new Error("The file has its post-processing inside: export it without.");
  }
  if (!content.tasks.includes("instance")) {
    throw new Error(`This page finds instances, and the model does ${content.tasks.join(", ")}.`);
  }
  if (!["RGB", "BGR"].includes(content.input.channel_order)) {
    throw new Error("The model takes images as they are stored, and this page pictures.");
  }
  return content;
}

function metadataText(bytes) {
  try {
    for (const entry of fields(bytes, 14)) { // metadata_props of a ModelProto
      const [key, value] = [1, 2].map((n) => new TextDecoder().decode(fields(entry, n)[0]));
      if (key === "mask2former") return JSON.parse(value);
    }
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof SyntaxError)) throw error;
  }
  return null; // also for what is not protobuf at all
}

/** Returns the fields of a protobuf message with a number, whose values are bytes. */
function fields(bytes, wanted) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length) throw new RangeError("cut off");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  const found = [];
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new RangeError("cut off");
      if (Math.floor(tag / 8) === wanted) found.push(bytes.subarray(at, at + length));
      at += length;
    } else throw new RangeError("not protobuf");
  }
  return found;
}

/** The size [height, width] to which an image is resized for the network. */
function fittingSize([height, width], { min_size, max_size, fixed }) {
  if (min_size) {
    let factor = min_size / Math.min(height, width);
    let sides = height < width ? [min_size, factor * width] : [factor * height, min_size];
    if (Math.max(...sides) > max_size) {
      factor = max_size / Math.max(...sides);
      sides = sides.map((side) => side * factor);
    }
    [height, width] = sides.map((side) => Math.max(1, Math.floor(side + 0.5)));
  }
  const most = [fixed.height ?? height, fixed.width ?? width];
  const shrink = Math.min(most[0] / height, most[1] / width);
  if (shrink >= 1) return [height, width];
  return [height, width].map((side, i) =>
    Math.max(1, Math.min(Math.floor(side * shrink + 0.5), most[i])),
  );
}

function paddedSize([height, width], { size_divisibility: unit, fixed }) {
  return [
    fixed.height ?? Math.ceil(height / unit) * unit,
    fixed.width ?? Math.ceil(width / unit) * unit,
  ];
}

/** Normalises pixels, red, green, blue, into the first image of the input; the rest stays 0. */
function fillInput(input, pixels, [height, width], [H, W], { channel_order, mean, std }) {
  for (let c = 0; c < 3; ++c) {
    const channel = channel_order === "RGB" ? c : 2 - c;
    const [offset, scale] = [Math.fround(mean[c]), Math.fround(std[c])];
    for (let y = 0; y < height; ++y) {
      for (let x = 0; x < width; ++x) {
        const value = pixels[3 * (y * width + x) + channel];
        input[(c * H + y) * W + x] = Math.fround(value - offset) / scale;
      }
    }
  }
}

const BITS = 22; // of the weights' fractions, as in Pillow

/** Resizes an ImageData to red, green, blue of [height, width], along its rows and then columns. */
function resize(image, [height, width]) {
  const { data } = image;
  const rgb = new Uint8ClampedArray(3 * image.width * image.height);
  for (let i = 0, j = 0; j < rgb.length; i += 4) {
    for (let c = 0; c < 3; ++c) rgb[j++] = data[i + c];
  }
  const wide = resizeAxis(rgb, image.height, image.width, width, 3);
  return resizeAxis(wide, 1, image.height, height, 3 * width);
}

/** Resizes the middle axis of (outer, inputs, inner) to `outputs`; wider where it shrinks. */
function resizeAxis(pixels, outer, inputs, outputs, inner) {
  if (inputs === outputs) return pixels;
  const scale = inputs / outputs;
  const support = Math.max(scale, 1);
  const resized = new Uint8ClampedArray(outer * outputs * inner);
  for (let o = 0; o < outputs; ++o) {
    const center = (o + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inputs, Math.trunc(center + support + 0.5));
    let weights = [];
    for (let i = first; i < last; ++i) {
      weights.push(Math.max(0, 1 - Math.abs((i - center + 0.5) / support)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    weights = weights.map((x) => Math.trunc((x / sum) * 2 ** BITS + 0.5));
    for (let a = 0; a < outer; ++a) {
      for (let b = 0; b < inner; ++b) {
        let total = 2 ** (BITS - 1);
        for (let k = 0; k < weights.length; ++k) {
          total += pixels[(a * inputs + first + k) * inner + b] * weights[k];
        }
        resized[(a * outputs + o) * inner + b] = Math.floor(total / 2 ** BITS);
      }
    }
  }
  return resized;
}

/** Where the outputs of a bilinear resizing lie between the inputs. */
function places(inputs, outputs) {
  const scale = Math.fround(inputs / outputs);
  return Array.from({ length: outputs }, (_, o) => {
    const position = Math.fround(Math.max(scale * (o + 0.5) - 0.5, 0));
    const before = Math.min(Math.trunc(position), inputs - 1);
    const share = inputs === outputs ? 0 : position - before;
    return [before, Math.min(before + 1, inputs - 1), share];
  });
}

/**
 * One axis from the logits of a mask to the image: to the padded input, whose padding is cut off,
 * and to the image. Returns the inputs and weights of each output.
 */
function axis(inputs, padded, resized, outputs) {
  const toPadded = places(inputs, padded);
  return places(resized, outputs).map(([before, after, share]) => {
    const weights = new Map();
    for (const [at, part] of [[before, 1 - share], [after, share]]) {
      const [first, second, rest] = toPadded[at];
      for (const [i, x] of [[first, part * (1 - rest)], [second, part * rest]]) {
        if (x !== 0) weights.set(i, (weights.get(i) ?? 0) + x);
      }
    }
    return [...weights];
  });
}

/** The mask of a query at the size of the image, its area and its mean probability. */
function maskOf(logits, w, rows, columns) {
  const mask = new Uint8Array(rows.length * columns.length);
  const wide = new Map(); // rows of logits, as wide as the image
  const widen = (y) => {
    const row = new Float32Array(columns.length);
    columns.forEach((weights, x) => {
      for (const [i, weight] of weights) row[x] += logits[y * w + i] * weight;
    });
    return row;
  };
  let area = 0;
  let total = 0;
  rows.forEach((weights, y) => {
    for (const [i] of weights) if (!wide.has(i)) wide.set(i, widen(i));
    const parts = weights.map(([i, weight]) => [wide.get(i), weight]);
    for (let x = 0; x < columns.length; ++x) {
      let logit = 0;
      for (const [row, weight] of parts) logit += row[x] * weight;
      if (logit <= 0) continue;
      mask[y * columns.length + x] = 1;
      total += 1 / (1 + Math.exp(-logit));
      ++area;
    }
  });
  return { mask, area, mean: total / (area + 1e-6) };
}
