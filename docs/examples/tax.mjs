// A service in JavaScript on a choreo platform with Redis: it hears payment.charged, and announces tax.recorded.
//
//     node tax.mjs                      # REDIS_URL and CHOREO_NAMESPACE name the platform
//
// It needs nothing but Node: the client for Redis is at the end. docs/other-languages.md explains each step.

import net from "node:net";

const namespace = process.env.CHOREO_NAMESPACE ?? "";
const named = (name) => (namespace ? `${namespace}.${name}` : name);
const queue = named("tax.record");
const busy = `${queue}.busy`;

const redis = connect(process.env.REDIS_URL ?? "redis://127.0.0.1:6379/0");

// Listen: the broker puts a copy of each payment.charged into the list from now on, also while this program is away.
const separator = "\x06\x16";
await redis("SADD", `_kombu.binding.${named("choreo.events")}`, ["payment.charged", "payment.charged", queue].join(separator));

// What a run before this one had taken and not finished comes first.
for (const text of await redis("LRANGE", busy, "0", "-1")) await handle(text);

console.log("listening");
for (;;) {
  const text = await redis("BLMOVE", queue, busy, "RIGHT", "LEFT", "0");
  await handle(text);
}

async function handle(text) {
  const event = JSON.parse(JSON.parse(text).body)[0][0]; // a CloudEvent
  const answer = {
    specversion: "1.0",
    // The same for the same payment: if this program dies before LREM, it announces the same event again.
    id: `tax-of-${event.id}`,
    source: "/node/tax",
    type: "tax.recorded",
    subject: event.subject,
    time: new Date().toISOString(),
    datacontenttype: "application/json",
    correlationid: event.correlationid, // the same story
    causationid: event.id,
    data: { tax_cents: Math.round(event.data.amount_cents * 0.19) },
  };
  // Announce first, then forget: a crash in between repeats an event, and loses none.
  await redis("LPUSH", named("choreo.intake"), JSON.stringify(answer));
  await redis("LREM", busy, "1", text);
}

// A client for Redis: one command at a time, RESP 2.
function connect(url) {
  const { hostname, port, pathname, username, password } = new URL(url);
  const socket = net.connect(Number(port || 6379), hostname);
  socket.on("error", (error) => { console.error(String(error)); process.exit(1); });
  socket.on("close", () => process.exit(1));
  let unread = Buffer.alloc(0);
  const waiting = [];
  socket.on("data", (chunk) => {
    unread = Buffer.concat([unread, chunk]);
    for (let answer; waiting.length && (answer = parse(unread, 0)); ) {
      unread = unread.subarray(answer.end);
      const { resolve, reject } = waiting.shift();
      answer.value instanceof Error ? reject(answer.value) : resolve(answer.value);
    }
  });
  const call = (...words) => {
    const parts = words.map((word) => Buffer.from(word));
    socket.write(`*${parts.length}\r\n`);
    for (const part of parts) { socket.write(`$${part.length}\r\n`); socket.write(part); socket.write("\r\n"); }
    return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
  };
  if (password) call("AUTH", ...[username, password].filter(Boolean).map(decodeURIComponent));
  if (pathname.length > 1) call("SELECT", pathname.slice(1));
  return call;
}

function parse(bytes, at) {
  const line = bytes.indexOf("\r\n", at);
  if (line < 0) return undefined;
  const kind = String.fromCharCode(bytes[at]), rest = bytes.toString("utf8", at + 1, line), next = line + 2;
  if (kind === "+") return { value: rest, end: next };
  if (kind === "-") return { value: new Error(rest), end: next };
  if (kind === ":") return { value: Number(rest), end: next };
  const length = Number(rest);
  if (length < 0) return { value: null, end: next };
  if (kind === "$") {
    const end = next + length + 2;
    return bytes.length < end ? undefined : { value: bytes.toString("utf8", next, end - 2), end };
  }
  const value = [];
  let end = next;
  for (let i = 0; i < length; i++) {
    const item = parse(bytes, end);
    if (!item) return undefined;
    value.push(item.value);
    end = item.end;
  }
  return { value, end };
}
