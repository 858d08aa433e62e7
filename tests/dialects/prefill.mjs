// One streamed call by Node's own fetch, whose patience is scaled down from 300 s to the seconds that are given.
// The agent of the built-in fetch is found under the symbol by which undici shares it, once fetch has been used.
const [url, key, model, patienceS] = process.argv.slice(2);
await fetch("data:,");
const { constructor: Agent } = globalThis[Symbol.for("undici.globalDispatcher.1")];
const patienceMs = Number(patienceS) * 1000;
const dispatcher = new Agent({ headersTimeout: patienceMs, bodyTimeout: patienceMs });
const report = { status: 0, text: "", done: false, pings: 0, error: null };
try {
  const answer = await fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    dispatcher,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "hi" }] }),
  });
  report.status = answer.status;
  for (const line of (await answer.text()).split("\n")) {
    if (line.startsWith(":")) report.pings += 1;
    if (line === "data: [DONE]") report.done = true;
    if (line.startsWith("data: {")) report.text += JSON.parse(line.slice(6)).choices?.[0]?.delta.content ?? "";
  }
} catch (error) {
  report.error = error.cause?.code ?? error.message;
}
console.log(JSON.stringify(report));
process.exit(0);
