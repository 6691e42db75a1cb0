// pg-boss: `enqueue URL JOBS` times insert() of 1,000 jobs; `process URL JOBS BATCH` times fetch() and complete().
// The last line of output is JSON with the seconds.
import PgBoss from 'pg-boss';

const BATCH = 1000;
const QUEUE = 'bench';
const [mode, url, jobsText, fetchText] = process.argv.slice(2);
const jobs = Number(jobsText);
// pg does not read a URL without a host, which is what a unix socket's looks like.
const [, user, database, host] = url.match(/\/\/([^:@]+)@[^/]*\/([^?]+)\?host=(.+)$/);
const boss = new PgBoss({ host: decodeURIComponent(host), user, database, supervise: false, schedule: false });
boss.on('error', (error) => { throw error; });
await boss.start();
await boss.createQueue(QUEUE);
await boss.purgeQueue(QUEUE);
const run = Date.now();

const batches = [];
for (let first = 0; first < jobs; first += BATCH) {
  batches.push(Array.from({ length: Math.min(BATCH, jobs - first) }, (_, index) => ({
    name: QUEUE,
    data: { n: first + index, note: 'a job that does nothing' },
    singletonKey: `key-${run}-${first + index}`,
  })));
}
const enqueueStarted = performance.now();
for (const batch of batches) await boss.insert(batch);
let seconds = (performance.now() - enqueueStarted) / 1000;

if (mode === 'process') {
  const started = performance.now();
  let done = 0;
  while (done < jobs) {
    const fetched = await boss.fetch(QUEUE, { batchSize: Number(fetchText) });
    await boss.complete(QUEUE, fetched.map((job) => job.id));
    done += fetched.length;
  }
  seconds = (performance.now() - started) / 1000;
}
await boss.stop({ graceful: false });
console.log(JSON.stringify({ jobs, seconds }));
process.exit(0);
