// A process with Graphile Worker in it. It is told what to do on its input, and says what happens on its output, one JSON object
// a line. When its input ends, it stops its worker as an application would, and ends when nothing is left to do.

import { EventEmitter } from "node:events";
import { createInterface } from "node:readline";

// With PEER_CLOCK, this process has a clock of its own, which showed begin when it was at, in milliseconds, and runs faster.
if (process.env.PEER_CLOCK) {
  const { begin, at, rate } = JSON.parse(process.env.PEER_CLOCK);
  const { Date: RealDate, setTimeout: timer } = globalThis;
  const now = () => begin + Math.floor((RealDate.now() - at) * rate);
  globalThis.Date = class Date extends RealDate {
    constructor(...args) {
      super(...(args.length > 0 ? args : [now()]));
    }
    static now() {
      return now();
    }
  };
  globalThis.setTimeout = (f, ms, ...args) => timer(f, Math.ceil(ms / rate), ...args);
}

// The package to test, of those in package.json.
const worker = await import(process.env.PEER_PACKAGE);
const { Logger, makeWorkerUtils, run, runOnce } = worker.default ?? worker;

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const logger = new Logger(() => (level, text) => say({ type: "log", level, text }));

// Events says what a worker emits.
class Events extends EventEmitter {
  emit(name, details) {
    const { message, timestamp, job } = details ?? {};
    const tick = timestamp && new Date(timestamp);
    say({ type: "event", name, channel: message?.channel, tick, job: job && { ...job } });
    return super.emit(name, details);
  }
}

// tell says that a job runs. It is what a task does, unless its test writes another.
async function tell({ job, getQueueName }) {
  say({ type: "job", job: { ...job, queue_name: await getQueueName() } });
}

// What a test can write as a task: the body of an async function of these.
const Body = (async () => {}).constructor;
const task = (body) => {
  const f = new Body("payload", "helpers", "tell", "say", "sleep", "released", body || "await tell(helpers)");
  return (payload, helpers) => f(payload, helpers, tell, say, sleep, released);
};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// What waits for released goes on when the test asks for it.
let release;
const released = new Promise((resolve) => (release = resolve));

let runner, utils;
const withUtils = async (options) => (utils ??= await makeWorkerUtils({ ...options, logger }));
const withDate = (spec) => ({ ...spec, runAt: spec?.runAt && new Date(spec.runAt) });
const taskList = (tasks) => Object.fromEntries(Object.entries(tasks).map(([name, body]) => [name, task(body)]));

const requests = {
  // Tasks have a body for each name, or "".
  async work({ options, tasks }) {
    runner = await run({ ...options, taskList: taskList(tasks), logger, events: new Events(), noHandleSignals: true });
    runner.promise.then(() => say({ type: "stopped" }), (error) => say({ type: "stopped", error: error.stack }));
  },
  async workOnce({ options, tasks }) {
    await runOnce({ ...options, taskList: taskList(tasks), logger, events: new Events(), noHandleSignals: true });
  },
  async add({ options, task, payload, spec }) {
    return await (await withUtils(options)).addJob(task, payload, withDate(spec));
  },
  async addJobs({ options, specs, preserveRunAt }) {
    await (await withUtils(options)).addJobs(specs.map(withDate), preserveRunAt);
  },
  // Call a method of WorkerUtils.
  async call({ options, method, args }) {
    await (await withUtils(options))[method](...args);
  },
  async release() {
    release();
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { request, ...details } = JSON.parse(line);
  try {
    say({ type: "reply", job: await requests[request](details) });
  } catch (error) {
    say({ type: "reply", error: error.stack });
  }
}
await runner?.stop().catch(() => {}); // unless it has stopped already
await utils?.release();
