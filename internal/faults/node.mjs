// A process of the fleet with Graphile Worker in it, the real one. It writes the journal that the Go processes write. When its pool
// fails, it ends, as applications do; the harness starts it again.

import { EventEmitter } from "node:events";
import { openSync, writeSync } from "node:fs";
import { Logger, run } from "graphile-worker";

const spec = JSON.parse(process.env.BACKFILL_FAULTS_CHILD);
const journal = openSync(spec.Journal, "a");
const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const write = (record) => writeSync(journal, `${JSON.stringify({ at: now(), proc: spec.Proc, ...record })}\n`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let runs = 0;
const handler = (begin) => async (payload, { job }) => {
  const run = ++runs;
  const { n, ...more } = begin(payload);
  write({ op: "started", n, run, job: Number(job.id), attempt: job.attempts, ...more });
  await sleep(payload.work ?? 0);
  // After a fourth failure it would wait for a minute here, and longer after each that follows, beyond the end of the trial.
  if (payload.end === "failure" && job.attempts > 3) await sleep(Math.max(0, (payload.due - now()) / 1000 + 1));
  if (payload.end === "failure" && now() < payload.due) {
    write({ op: "failed", n, run });
    throw new Error("fails until it is due or cancelled");
  }
  write({ op: "ended", n, run });
};
const simple = handler(({ n, kind, due, queue }) => ({ n, kind, due, queue }));
const tick = handler(({ _cron }) => ({ n: Date.parse(_cron.ts) / 1000, kind: "tick" }));

const events = new EventEmitter();
events.on("pool:create", ({ workerPool }) => write({ op: "pool", text: workerPool.id }));

const logger = new Logger(() => (level, text) => {
  if (level === "error" || level === "warning") console.error(level, text);
});

process.stdin.on("end", () => process.exit(4)).resume(); // the harness has gone

const runner = await run({
  connectionString: spec.URL,
  preset: { worker: { concurrentJobs: 4 } },
  taskList: { plain: simple, keyed: simple, serial: simple, scheduled: simple, unwanted: simple, tick },
  crontab: spec.Crontab,
  events,
  logger,
  noHandleSignals: true,
});
process.on("SIGTERM", () => runner.stop().catch(() => {}).finally(() => process.exit(0)));
await runner.promise.catch((error) => console.error("the pool failed:", error.message));
process.exit(1);
