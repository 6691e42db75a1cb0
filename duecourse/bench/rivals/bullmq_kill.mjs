// BullMQ under `kill -9`: `enqueue SOCKET JOBS`, `work SOCKET` until it is killed, `count SOCKET`.
// A job's effect is a line in a list of the receiver's, in another database of the same Redis. Settings: those of BullMQ's
// guide to production; lock and stalled check run 15 times as fast as its defaults, so that nobody waits for minutes.
// https://docs.bullmq.io/guide/going-to-production
import { Queue, Worker } from 'bullmq';
import Redis from 'ioredis';

const BATCH = 1000;
const LOCK_MS = 2000;
const WORK_MS = 5;
const CONCURRENCY = 10;
const [mode, socket, jobsText] = process.argv.slice(2);
const connect = (db) => new Redis({ path: socket, db, maxRetriesPerRequest: null });
const effects = connect(1);
const connection = connect(0);

if (mode === 'enqueue') {
  const queue = new Queue('chaos', { connection });
  const jobs = Number(jobsText);
  for (let first = 0; first < jobs; first += BATCH) {
    await queue.addBulk(Array.from({ length: Math.min(BATCH, jobs - first) }, (_, index) => ({
      name: 'effect',
      data: { n: first + index },
      opts: { jobId: `key-${first + index}`, attempts: 3, backoff: { type: 'exponential', delay: 100 } },
    })));
  }
  console.log('{}');
  process.exit(0);
} else if (mode === 'work') {
  new Worker('chaos', async (job) => {
    await effects.rpush('effects', job.data.n);
    await new Promise((resolve) => setTimeout(resolve, WORK_MS));
  }, { connection, concurrency: CONCURRENCY, lockDuration: LOCK_MS, stalledInterval: LOCK_MS });
} else {
  const queue = new Queue('chaos', { connection });
  const counts = await queue.getJobCounts();
  const seen = new Map();
  for (const n of await effects.lrange('effects', 0, -1)) seen.set(n, (seen.get(n) ?? 0) + 1);
  const open = counts.waiting + counts.active + counts.delayed + counts.prioritized;
  const doubled = [...seen.values()].reduce((sum, times) => sum + times - 1, 0);
  console.log(JSON.stringify({ open, failed: counts.failed, without_effect: Number(jobsText) - seen.size, doubled }));
  process.exit(0);
}
