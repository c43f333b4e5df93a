// A process with Graphile Worker in it, which does as the children of child.go do: says that it is ready, works from when it is told
// to until SIGTERM, says when it listens, and reports. It ends when its input does.

import { EventEmitter } from "node:events";
import { Logger, run, runMigrations } from "graphile-worker";

const { options, task, jobs } = JSON.parse(process.env.BACKFILL_BENCH_CHILD);
const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

// No line for each job, and none of what the peer says of itself while it is stopped.
const logger = new Logger(() => (level, text) => {
  if (level === "error" && !stopping) console.error(text);
});

const seen = new Uint8Array(jobs);
let ran = 0;
let twice = 0;
const tally = async ({ n }) => {
  if (!(n >= 0 && n < jobs)) throw new Error(`no such job: ${n}`);
  twice += seen[n];
  seen[n] = 1;
  ran++;
};

const events = new EventEmitter();
events.once("pool:listen:success", () => say(true));

let runner;
let stopping = false;
process.on("SIGTERM", async () => {
  stopping = true;
  setTimeout(() => process.exit(1), 30_000).unref();
  await runner?.stop().catch(() => {}); // which fails while jobs wait in its local queue, but gives them back
  say({ Ran: ran, Twice: twice });
  // It does not wait for what it records: the process ends when nothing is under way.
  process.stdin.off("end", process.exit).destroy();
});

await runMigrations({ ...options, logger });
say(true);
process.stdin.once("data", async () => {
  runner = await run({ ...options, taskList: { [task]: tally }, logger, events, noHandleSignals: true });
});
process.stdin.on("end", process.exit);
