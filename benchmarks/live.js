// Processor time of one guided sample of a live page: node benchmarks/live.js outputs/demo/live.html [times]
"use strict";
const fs = require("fs"), path = require("path");
const Live = require(path.join(__dirname, "../src/nanogen/templates/live.js"));

const page = fs.readFileSync(process.argv[2], "utf8");
const network = new Live.Network(JSON.parse(page.match(/<script type="application\/json" id="data">(.*?)<\/script>/s)[1]));
for (let turn = 0; turn < Number(process.argv[3] ?? 3); turn++) {
  const before = process.cpuUsage();
  for (const state of Live.sample(network, { label: 3, guidance: 1.5, seed: turn, steps: 25 })) void state;
  console.log(`25 guided steps: ${(process.cpuUsage(before).user / 1e6).toFixed(2)} s`);
}
