// Leaves sockets idle for about as long as servers and clients wait before they close them, then uses them again.
//
// `node idle.mjs BASE_URL` prints the calls that failed. Each idle time is a lane of its own: plain fetch in a thread
// (it has a pool of its own there), and node:http with an agent, which keeps a socket for as long as the server does.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

// fetch lets go of a socket after 4 s; uvicorn closes one after 5 s by default, as vLLM does.
const IDLE_MS = [3800, 3900, 3950, 4000, 4050, 4100, 4900, 4980, 5000, 5020, 5100, 6000];
const SOCKETS = 6;

const body = JSON.stringify({ model: 'jane', messages: [{ role: 'user', content: 'hi' }] });
const headers = { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) };
const wave = (call) => Promise.all(Array.from({ length: SOCKETS }, call));
const failure = (error) => `${error.message}: ${error.cause?.code ?? error.code}`;

const asks = {
  async fetch(url) {
    const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    await response.arrayBuffer();
    return { ok: response.ok, failed: response.ok ? null : response.status };
  },
  http: (url, agent) =>
    new Promise((resolve, reject) => {
      const request = http.request(url, { method: 'POST', agent, headers }, (response) => {
        response.resume().on('end', () => {
          const ok = response.statusCode === 200;
          resolve({ ok, failed: ok ? null : response.statusCode, reused: request.reusedSocket });
        });
      });
      request.on('error', reject).end(body);
    }),
};

async function lane({ kind, url, idleMs }) {
  const agent = new http.Agent({ keepAlive: true });
  const ask = () => asks[kind](url, agent).catch((error) => ({ ok: false, failed: failure(error) }));
  const first = await wave(ask);
  await sleep(idleMs);
  const second = await wave(ask);
  agent.destroy();
  const failed = [...first, ...second].filter((call) => !call.ok).map((call) => call.failed);
  return { kind, idleMs, calls: first.length + second.length, failed, reused: second.filter((call) => call.reused).length };
}

if (isMainThread) {
  const url = `${process.argv[2]}/chat/completions`;
  const inThread = (workerData) =>
    new Promise((resolve, reject) => {
      new Worker(new URL(import.meta.url), { workerData }).on('message', resolve).on('error', reject);
    });
  const lanes = IDLE_MS.flatMap((idleMs) => [
    inThread({ kind: 'fetch', url, idleMs }),
    lane({ kind: 'http', url, idleMs }),
  ]);
  console.log(JSON.stringify(await Promise.all(lanes)));
} else {
  parentPort.postMessage(await lane(workerData));
}
