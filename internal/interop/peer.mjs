// A process with Graphile Worker in it. It is told what to do on its input, and says what happens on its output, one JSON object
// a line. When its input ends, it stops its worker as an application would, and ends when nothing is left to do.

import { EventEmitter } from "node:events";
import { createInterface } from "node:readline";
import { Logger, makeWorkerUtils, run } from "graphile-worker";

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const logger = new Logger(() => (level, text) => say({ type: "log", level, text }));

// Events says what a worker emits.
class Events extends EventEmitter {
  emit(name, details) {
    say({ type: "event", name, channel: details?.message?.channel });
    return super.emit(name, details);
  }
}

// task says what its job is.
async function task(_, { job, getQueueName }) {
  say({ type: "job", job: { ...job, queue_name: await getQueueName() } });
}

let runner, utils;

const requests = {
  async work({ options, tasks }) {
    const taskList = Object.fromEntries(tasks.map((name) => [name, task]));
    runner = await run({ ...options, taskList, logger, events: new Events(), noHandleSignals: true });
  },
  async add({ options, task, payload, spec }) {
    utils ??= await makeWorkerUtils({ ...options, logger });
    const runAt = spec?.runAt && new Date(spec.runAt);
    return await utils.addJob(task, payload, { ...spec, runAt });
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
await runner?.stop();
await utils?.release();
