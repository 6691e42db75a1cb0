// BullMQ: `enqueue SOCKET JOBS` times addBulk; `process SOCKET JOBS CONCURRENCY WORKERS` times a worker that does nothing.
// The last line of output is JSON with the seconds. The queue's settings are BullMQ's own; jobs are kept, as ours are.
import { Queue, Worker } from 'bullmq';
import Redis from 'ioredis';

const BATCH = 1000;
const [mode, socket, jobsText, concurrencyText, workersText] = process.argv.slice(2);
const jobs = Number(jobsText);
const connect = () => new Redis({ path: socket, maxRetriesPerRequest: null });
const connection = connect();
await connection.flushall();
const queue = new Queue('bench', { connection });

const batches = [];
for (let first = 0; first < jobs; first += BATCH) {
  batches.push(Array.from({ length: Math.min(BATCH, jobs - first) }, (_, index) => ({
    name: 'empty',
    data: { n: first + index, note: 'a job that does nothing' },
    opts: { jobId: `key-${first + index}` },
  })));
}
await queue.waitUntilReady();

const enqueueStarted = performance.now();
for (const batch of batches) await queue.addBulk(batch);
let seconds = (performance.now() - enqueueStarted) / 1000;
const kept = await queue.getWaitingCount();
if (kept !== jobs) throw new Error(`${kept} jobs are waiting, not ${jobs}`);

if (mode === 'process') {
  const concurrency = Number(concurrencyText);
  let done = 0;
  const workers = Array.from({ length: Number(workersText ?? 1) }, () =>
    new Worker('bench', async () => {}, { connection: connect(), concurrency, autorun: false }));
  await Promise.all(workers.map((worker) => worker.waitUntilReady()));
  const finished = new Promise((resolve) => {
    for (const worker of workers) worker.on('completed', () => { done += 1; if (done === jobs) resolve(); });
  });
  const started = performance.now();
  for (const worker of workers) worker.run();
  await finished;
  seconds = (performance.now() - started) / 1000;
  await Promise.all(workers.map((worker) => worker.close()));
}
await queue.close();
console.log(JSON.stringify({ jobs, seconds }));
process.exit(0);
