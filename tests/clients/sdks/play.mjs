// Plays calls of one SDK, one after another: `node play.mjs SDK` reads a line of JSON for each, and prints one with what
// the application saw and how many requests the SDK made of it.
//
// A line says `call`, the `baseURL`, the `user`, and what else the call is about; `hurries` makes waits a thousandth as long.
import { createInterface } from 'node:readline';

const { calls, described } = await import(`./${process.argv[2]}.mjs`);
const LONGEST_WAIT_MS = 300_000; // LangChain.js backs off up to 128 s; what is longer is a limit of time

const wait = globalThis.setTimeout;

/** Record how long the SDK means to wait between its tries, and let it wait a thousandth of that. */
function hurriedly(waits) {
  globalThis.setTimeout = (callback, ms = 0, ...args) => {
    const isFetchs = new Error().stack.split('\n')[2].includes('node:internal'); // its pool has time limits of its own
    if (isFetchs || ms < 1 || ms > LONGEST_WAIT_MS) return wait(callback, ms, ...args);
    return wait(() => (waits.push(ms), callback(...args)), ms / 1000);
  };
}

async function played({ call, hurries, ...asked }) {
  const waits = [];
  let requests = 0;
  const counted = (...args) => {
    requests += 1;
    return fetch(...args);
  };
  if (hurries) hurriedly(waits);
  try {
    const saw = await calls[call]({ model: 'jane', ...asked, fetch: counted });
    return { ...saw, requests, ...(hurries ? { waits } : {}) };
  } catch (error) {
    if (error instanceof ReferenceError) throw error;
    return { thrown: described(error), requests, waits };
  } finally {
    globalThis.setTimeout = wait;
  }
}

process.on('unhandledRejection', (error) => {
  console.error(error); // an SDK that lets its application's process die over a broken stream must not go unnoticed
  process.exit(1);
});

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await played(JSON.parse(line))));
}
