// Samples a small class-conditional flow network in the browser, or under node: the same sums as nanogen/model/dit.py,
// nanogen/samplers.py and nanogen/guidance.py, in double precision. Rows of a matrix are tokens; all arrays are flat.
"use strict";

const Live = (() => {
  const silu = (x) => x / (1 + Math.exp(-x));

  // Maps rows x [n, inputs] by w [outputs, inputs] and b to [n, outputs]; four rows and two outputs at a time, as
  // loading numbers costs more than multiplying them.
  function linear(x, n, w, b) {
    const outputs = b.length, inputs = w.length / outputs, y = new Float64Array(n * outputs);
    const rows = n - (n % 4), columns = outputs - (outputs % 2);
    for (let o = 0; o < columns; o += 2) {
      const u = o * inputs, v = u + inputs;
      for (let r = 0; r < rows; r += 4) {
        let a0 = b[o], a1 = a0, a2 = a0, a3 = a0, c0 = b[o + 1], c1 = c0, c2 = c0, c3 = c0;
        let p = r * inputs, q = p + inputs, s = q + inputs, t = s + inputs;
        for (let i = 0; i < inputs; i++, p++, q++, s++, t++) {
          const f = w[u + i], g = w[v + i], x0 = x[p], x1 = x[q], x2 = x[s], x3 = x[t];
          a0 += f * x0; a1 += f * x1; a2 += f * x2; a3 += f * x3;
          c0 += g * x0; c1 += g * x1; c2 += g * x2; c3 += g * x3;
        }
        let k = r * outputs + o;
        y[k] = a0; y[k + 1] = c0; k += outputs;
        y[k] = a1; y[k + 1] = c1; k += outputs;
        y[k] = a2; y[k + 1] = c2; k += outputs;
        y[k] = a3; y[k + 1] = c3;
      }
    }
    for (let r = 0; r < n; r++) {
      for (let o = r < rows ? columns : 0; o < outputs; o++) {
        let sum = b[o];
        for (let i = 0; i < inputs; i++) sum += w[o * inputs + i] * x[r * inputs + i];
        y[r * outputs + o] = sum;
      }
    }
    return y;
  }

  function rmsNorm(x, gain, out = new Float64Array(x.length)) {
    const width = gain.length;
    for (let r = 0; r < x.length; r += width) {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += x[r + i] * x[r + i];
      const scale = 1 / Math.sqrt(sum / width + 1e-6);
      for (let i = 0; i < width; i++) out[r + i] = x[r + i] * scale * gain[i];
    }
    return out;
  }

  // x (1 + scale) + shift, where shift and scale are two of the `parts` stretches of each row of m.
  function modulate(x, m, width, parts, shift, scale) {
    for (let r = 0, k = 0; k < x.length; r++, k += width) {
      for (let i = 0; i < width; i++) {
        const row = (r * parts) * width + i;
        x[k + i] = x[k + i] * (1 + m[row + scale * width]) + m[row + shift * width];
      }
    }
    return x;
  }

  function addInto(x, y, m, width, parts, gate) {
    for (let r = 0, k = 0; k < x.length; r++, k += width) {
      for (let i = 0; i < width; i++) x[k + i] += y[k + i] * (m ? m[(r * parts + gate) * width + i] : 1);
    }
    return x;
  }

  class Network {
    // data: what nanogen/live.py writes.
    constructor(data) {
      this.shape = data.shape;
      this.data = data;
      const values = unpack(data.weights);
      this.w = {};
      let start = 0;
      for (const [name, size] of data.tensors) {
        this.w[name] = Float64Array.from(values.subarray(start, start + size));
        start += size;
      }
    }

    linear(x, n, name) {
      return linear(x, n, this.w[name + ".weight"], this.w[name + ".bias"]);
    }

    // Self-attention of the first `queries` of n tokens; the first tokens are the image's, and turn.
    attention(x, n, queries, name, heads, cos, sin) {
      const width = x.length / n, size = width / heads, image = cos.length / size;
      const qkv = this.linear(x, n, name + ".qkv"), out = new Float64Array(queries * width);
      const head = (part, h, count, gain) => {
        let found = new Float64Array(count * size);
        for (let r = 0; r < count; r++) {
          for (let i = 0; i < size; i++) found[r * size + i] = qkv[(r * 3 + part) * width + h * size + i];
        }
        if (!gain) return found;
        found = rmsNorm(found, gain);
        for (let k = 0; k < Math.min(count, image) * size; k += 2) {
          const u = found[k], v = found[k + 1];
          found[k] = u * cos[k] + v * sin[k];
          found[k + 1] = v * cos[k + 1] + u * sin[k + 1];
        }
        return found;
      };
      const scores = new Float64Array(n);
      for (let h = 0; h < heads; h++) {
        const q = head(0, h, queries, this.w[name + ".q_norm.weight"]);
        const k = head(1, h, n, this.w[name + ".k_norm.weight"]), v = head(2, h, n);
        for (let r = 0; r < queries; r++) {
          let most = -Infinity, total = 0;
          for (let s = 0; s < n; s++) {
            let sum = 0;
            for (let i = 0; i < size; i++) sum += q[r * size + i] * k[s * size + i];
            scores[s] = sum / Math.sqrt(size);
            most = Math.max(most, scores[s]);
          }
          for (let s = 0; s < n; s++) total += scores[s] = Math.exp(scores[s] - most);
          for (let s = 0; s < n; s++) {
            const share = scores[s] / total;
            for (let i = 0; i < size; i++) out[r * width + h * size + i] += share * v[s * size + i];
          }
        }
      }
      return this.linear(out, queries, name + ".proj");
    }

    swiglu(x, n, name) {
      const both = this.linear(x, n, name + ".w12"), hidden = both.length / n / 2;
      const gated = new Float64Array(n * hidden);
      for (let r = 0; r < n; r++) {
        for (let i = 0; i < hidden; i++) {
          gated[r * hidden + i] = silu(both[r * 2 * hidden + i]) * both[(r * 2 + 1) * hidden + i];
        }
      }
      return this.linear(gated, n, name + ".w3");
    }

    // Cuts z [C, H, W] into patches, one a row: channel, then row, then column.
    patches(z) {
      const { latent: [channels, height, width], patch } = this.shape, found = [];
      for (let r = 0; r < height; r += patch) {
        for (let c = 0; c < width; c += patch) {
          for (let k = 0; k < channels; k++) {
            for (let i = 0; i < patch; i++) {
              for (let j = 0; j < patch; j++) found.push(z[(k * height + r + i) * width + c + j]);
            }
          }
        }
      }
      return Float64Array.from(found);
    }

    // Puts rows (row, column, channel) back to [C, H, W].
    unpatchify(tokens) {
      const { latent: [channels, height, width], patch } = this.shape, z = new Float64Array(tokens.length);
      let next = 0;
      for (let r = 0; r < height; r += patch) {
        for (let c = 0; c < width; c += patch) {
          for (let i = 0; i < patch; i++) {
            for (let j = 0; j < patch; j++) {
              for (let k = 0; k < channels; k++) z[(k * height + r + i) * width + c + j] = tokens[next++];
            }
          }
        }
      }
      return z;
    }

    time(t) {
      const frequencies = this.w["time.frequencies"], n = frequencies.length, waves = new Float64Array(2 * n);
      for (let i = 0; i < n; i++) {
        waves[i] = Math.sin(2 * Math.PI * t * frequencies[i]);
        waves[n + i] = Math.cos(2 * Math.PI * t * frequencies[i]);
      }
      return this.linear(this.linear(waves, 1, "time.mlp.0").map(silu), 1, "time.mlp.2");
    }

    // dz/dt at z [C, H, W] and t, of a class; the class after the last is none.
    velocity(z, t, label) {
      const { encoder, decoder, predict } = this.shape, w = this.w, patches = this.patches(z);
      const embedded = this.linear(patches, this.shape.tokens, "encoder_embed"), embedding = this.time(t);
      const width = embedding.length, image = this.shape.tokens;
      const rows = [embedded];
      for (const [base, offsets] of [
        [embedding, w["time.offsets"]],
        [w["condition.table.weight"].subarray(label * width, (label + 1) * width), w["condition.offsets"]],
      ]) rows.push(offsets.map((value, i) => value + base[i % width]));
      let s = Float64Array.from(rows.flatMap((part) => [...part])), n = s.length / width;
      for (let depth = 0; depth < encoder.depth; depth++) {
        const name = `encoder.${depth}`, kept = depth === encoder.depth - 1 ? image : n;
        const seen = rmsNorm(s, w[name + ".norm1.weight"]);
        const change = this.attention(seen, n, kept, name + ".attn", encoder.heads, w.encoder_cos, w.encoder_sin);
        s = addInto(s.slice(0, kept * width), change, null, width);
        n = kept;
        addInto(s, this.swiglu(rmsNorm(s, w[name + ".norm2.weight"]), n, name + ".mlp"), null, width);
      }
      let c = s.map((value, i) => silu(value + embedding[i % width]));
      c = (w["bridge.weight"] ? this.linear(c, n, "bridge") : c).map(silu);
      let x = this.linear(patches, n, "decoder_embed");
      const wide = x.length / n;
      for (let depth = 0; depth < decoder.depth; depth++) {
        const name = `decoder.${depth}`, m = this.linear(c, n, name + ".adaln");
        const first = modulate(rmsNorm(x, w[name + ".norm1.weight"]), m, wide, 6, 0, 1);
        addInto(x, this.attention(first, n, n, name + ".attn", decoder.heads, w.decoder_cos, w.decoder_sin), m, wide, 6, 2);
        const second = modulate(rmsNorm(x, w[name + ".norm2.weight"]), m, wide, 6, 3, 4);
        addInto(x, this.swiglu(second, n, name + ".mlp"), m, wide, 6, 5);
      }
      x = modulate(rmsNorm(x, w["final.norm.weight"]), this.linear(c, n, "final.adaln"), wide, 2, 0, 1);
      const pred = this.unpatchify(this.linear(x, n, "final.linear"));
      return predict === "v" ? pred : pred.map((value, i) => (z[i] - value) / Math.max(t, 0.05));
    }

    noise(seed) {
      const size = this.data.noise_size;
      this.allNoise ??= unpack(this.data.noise);
      return Float64Array.from(this.allNoise.subarray(seed * size, (seed + 1) * size));
    }
  }

  // Base64 of little-endian float32.
  function unpack(text) {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Float32Array(bytes.buffer);
  }

  function timeGrid(steps, shift) {
    return Array.from({ length: steps + 1 }, (_, i) => {
      const t = (steps - i) / steps;
      return Math.fround(t / (t + (1 - t) / shift));
    });
  }

  // Gives the state after each Euler step, with what the network expects at the end: {done, z, expected}.
  function* sample(network, { label, guidance, seed, steps }) {
    const { shift, interval, classes } = network.shape, times = timeGrid(steps, shift);
    const [low, high] = interval.map(Math.fround);
    let z = network.noise(seed);
    for (let i = 0; i < steps; i++) {
      const t = times[i], dt = t - times[i + 1];
      let v = network.velocity(z, t, label);
      if (guidance !== 1 && low <= t && t <= high) {
        const none = network.velocity(z, t, classes);
        v = v.map((value, k) => none[k] + guidance * (value - none[k]));
      }
      const expected = z.map((value, k) => value - t * v[k]);
      z = z.map((value, k) => value - dt * v[k]);
      yield { done: i + 1, z, expected };
    }
  }

  // Values of [C, H, W] in -1..1 as bytes [H, W, C], truncated as in nanogen.
  function pixels(z, [channels, height, width]) {
    const found = new Uint8ClampedArray(z.length);
    for (let k = 0; k < channels; k++) {
      for (let p = 0; p < height * width; p++) {
        found[p * channels + k] = Math.floor(255 * Math.min(1, Math.max(0, (z[k * height * width + p] + 1) / 2)));
      }
    }
    return found;
  }

  return { Network, sample, pixels };
})();

if (typeof module !== "undefined") module.exports = Live;
