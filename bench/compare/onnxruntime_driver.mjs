// SPDX-License-Identifier: MIT

// ONNX Runtime behind the protocol of driver.hpp, with the graph of onnx_graph.py.

import {readFileSync, writeFileSync} from "node:fs";
import {createRequire} from "node:module";
import {dirname, join} from "node:path";
import {createInterface} from "node:readline";

const options = {};
for (let i = 2; i + 1 < process.argv.length; i += 2) {
    options[process.argv[i].slice(2)] = process.argv[i + 1];
}
const require = createRequire(join(options.packages, "package.json"));
const ort = require("onnxruntime-node");
const config = JSON.parse(readFileSync(join(dirname(options.model), "config.json"), "utf8"));
const {n_layer: layers, n_head: heads, n_embd: width, vocab_size: vocabSize} = config;

const session = await ort.InferenceSession.create(options.model, {
    intraOpNumThreads: Number(options.threads),
    interOpNumThreads: 1,
    graphOptimizationLevel: "all",
});

/** Token i of the text that every driver reads. */
const token = (i) => (i * 7919 + 17) % vocabSize;
const tokens = (begin, n) => Array.from({length: n}, (_, i) => token(begin + i));

/** Sequences of equal length with their keys and values. */
class Context {
    constructor(sequences = 1) {
        this.length = 0;
        this.sequences = sequences;
        this.past = {};
        for (let layer = 0; layer < layers; layer++) {
            const shape = [2, sequences, heads, 0, width / heads];
            this.past[`past_${layer}`] = new ort.Tensor("float32", new Float32Array(0), shape);
        }
    }

    /** Appends to each sequence its row of ids. @returns the logits [sequences, V] after the last */
    async forward(rows) {
        const n = rows[0].length;
        const ids = new BigInt64Array(rows.flat().map(BigInt));
        const positions = new BigInt64Array(Array.from({length: n}, (_, i) => BigInt(this.length + i)));
        const outputs = await session.run({
            input_ids: new ort.Tensor("int64", ids, [rows.length, n]),
            position_ids: new ort.Tensor("int64", positions, [1, n]),
            ...this.past,
        });
        for (let layer = 0; layer < layers; layer++) {
            this.past[`past_${layer}`] = outputs[`present_${layer}`];
        }
        this.length += n;
        return outputs.logits.data;
    }
}

async function seconds(body) {
    const start = process.hrtime.bigint();
    await body();
    return Number(process.hrtime.bigint() - start) * 1e-9;
}

/** One of the k largest logits, with the probability that the softmax of these gives it. */
function sample(logits, k) {
    const best = [];
    let least = -Infinity;
    for (let id = 0; id < logits.length; id++) {
        const logit = logits[id];
        if (best.length < k || logit > least) {
            let at = best.length;
            while (at > 0 && best[at - 1].logit < logit) {
                at--;
            }
            best.splice(at, 0, {id, logit});
            if (best.length > k) {
                best.pop();
            }
            least = best[best.length - 1].logit;
        }
    }
    const weights = best.map(({logit}) => Math.exp(logit - best[0].logit));
    let left = Math.random() * weights.reduce((a, b) => a + b);
    return best[Math.max(0, weights.findIndex((weight) => (left -= weight) <= 0))].id;
}

const commands = {
    async decode(depth, steps) {
        const context = new Context();
        if (depth > 0) {
            await context.forward([tokens(0, depth)]);
        }
        return {
            seconds: await seconds(async () => {
                for (let i = 0; i < steps; i++) {
                    await context.forward([[token(depth + i)]]);
                }
            }),
        };
    },
    async prefill(n) {
        const context = new Context();
        return {seconds: await seconds(() => context.forward([tokens(0, n)]))};
    },
    async batch(sequences, prompt, steps) {
        const context = new Context(sequences);
        const rows = (begin, n) => Array.from({length: sequences}, (_, s) => tokens(s + begin, n));
        await context.forward(rows(0, prompt));
        return {
            seconds: await seconds(async () => {
                for (let i = 0; i < steps; i++) {
                    await context.forward(rows(prompt + i, 1));
                }
            }),
        };
    },
    async generate(prompt, newTokens, topK) {
        const context = new Context();
        return {
            seconds: await seconds(async () => {
                let logits = await context.forward([tokens(0, prompt)]);
                for (let i = 0; i < newTokens; i++) {
                    const id = sample(logits, topK);
                    if (i + 1 < newTokens) {
                        logits = await context.forward([[id]]);
                    }
                }
            }),
        };
    },
    async logits(prompt, steps, path) {
        const context = new Context();
        const rows = [Float32Array.from(await context.forward([tokens(0, prompt)]))];
        for (let i = 0; i < steps; i++) {
            rows.push(Float32Array.from(await context.forward([[token(prompt + i)]])));
        }
        writeFileSync(path, Buffer.concat(rows.map((row) => Buffer.from(row.buffer))));
        return {};
    },
};

if (options["cold-start"]) {
    await commands.generate(Number(options["cold-start"]), 1, 1);
    console.log(JSON.stringify({first_token: Number(process.hrtime.bigint()) * 1e-9}));
} else {
    const version = require("onnxruntime-node/package.json").version;
    console.log(JSON.stringify({description: `ONNX Runtime ${version} (npm), ${options.threads} threads`}));
    for await (const line of createInterface({input: process.stdin})) {
        const [command, ...words] = line.split(" ");
        const values = words.map((word) => (/^\d+$/.test(word) ? Number(word) : word));
        try {
            console.log(JSON.stringify(await commands[command](...values)));
        } catch (error) {
            console.log(JSON.stringify({error: String(error)}));
        }
    }
}
