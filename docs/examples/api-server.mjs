// An API server that asks Petsem "may this token do this?" and obeys the answer. Node 20 or newer,
// nothing but its standard library.
//
//   PETSEM_ADDR        where a node is: https://petsem.internal:7420
//   PETSEM_TOKEN_FILE  this server's own token, with `action = tokens:verify`, readable by it alone
//   PORT               where to listen, on 127.0.0.1; 0 (the default) takes a free port and says which
//   PETSEM_TIMEOUT_MS  how long to wait for a verdict (2000)
//
// It guarantees: a request is served only if Petsem answered, in time and in full, that its token
// allows exactly this action on exactly this org and app. A refusal is 401 (get another token) or
// 403 (not with this one), with Petsem's reason. No answer is 503: never a yes, and no no either.
//
// It keeps no verdict, so a revoked token ends with the next request. It does not look into the
// token, and writes none anywhere.

import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:http';

const TOKEN_MAX_CHARS = 6 * 1024;
const ANSWER_MAX_BYTES = 64 * 1024;
const MAX_STALENESS_S = 10;

const address = process.env.PETSEM_ADDR;
const tokenFile = process.env.PETSEM_TOKEN_FILE;
const timeoutMs = Number(process.env.PETSEM_TIMEOUT_MS ?? 2_000);
if (!address || !tokenFile) {
  console.error('set PETSEM_ADDR and PETSEM_TOKEN_FILE');
  process.exit(2);
}

// What this API offers, and the action that each of it needs. Whatever is not here does not exist.
const ROUTES = [
  { method: 'GET', path: /^\/orgs\/([a-z0-9-]{1,63})\/apps\/([a-z0-9-]{1,63})\/logs$/, action: 'logs:read' },
  { method: 'POST', path: /^\/orgs\/([a-z0-9-]{1,63})\/apps\/([a-z0-9-]{1,63})\/restarts$/, action: 'machines:restart' },
];

// With these another token may do. A reason that is not known here is a refusal for good.
const ANOTHER_TOKEN = new Set([
  'MALFORMED', 'TRUNCATED', 'BAD_SIGNATURE', 'UNKNOWN_KEY', 'WRONG_CLUSTER', 'NOT_ISSUED',
  'EXPIRED', 'NOT_YET_VALID', 'DISCHARGE_MISSING', 'DISCHARGE_INVALID',
]);

/** The token of a request; null if there is none, more than one, or one that is too long to be. */
function bearer(request) {
  const sent = request.headersDistinct.authorization ?? [];
  const found = sent.length === 1 ? /^Bearer ([!-~]+)$/i.exec(sent[0]) : null;
  return found && found[1].length <= TOKEN_MAX_CHARS ? found[1] : null;
}

/** This server's own token, read each time, so that a renewed one counts at once. */
async function ownToken() {
  if (((await stat(tokenFile)).mode & 0o077) !== 0) {
    throw new Error(`others may read PETSEM_TOKEN_FILE; chmod 600 it`);
  }
  return (await readFile(tokenFile, 'ascii')).trim();
}

/** Petsem's verdict. Throws for everything that is not one. */
async function verdict(token, access) {
  const answer = await fetch(new URL('/v1/tokens/verify', address), {
    method: 'POST',
    headers: {
      authorization: `Bearer ${await ownToken()}`,
      'content-type': 'application/json',
    },
    body: JSON.stringify({ token, access, max_staleness_s: MAX_STALENESS_S }),
    redirect: 'error',
    signal: AbortSignal.timeout(timeoutMs),
  });
  const parts = [];
  let size = 0;
  for await (const part of answer.body ?? []) {
    size += part.length;
    if (size > ANSWER_MAX_BYTES) throw new Error('the answer is too long');
    parts.push(part);
  }
  // An error, also one about this server's own token, says nothing about the caller's.
  if (answer.status !== 200) throw new Error(`Petsem answered ${answer.status}`);
  const found = JSON.parse(Buffer.concat(parts).toString('utf8'));
  if (typeof found?.allowed !== 'boolean') throw new Error('the answer is no verdict');
  return found;
}

function send(response, status, body, headers = {}) {
  response.writeHead(status, {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    ...headers,
  });
  response.end(`${JSON.stringify(body)}\n`);
}

async function handle(request, response) {
  const [path] = request.url.split('?', 1);
  const route = ROUTES.find((each) => each.method === request.method && each.path.test(path));
  if (!route) {
    return send(response, 404, { error: 'there is nothing here' });
  }
  const token = bearer(request);
  if (token === null) {
    return send(response, 401, { error: 'send a token' }, { 'www-authenticate': 'Bearer' });
  }
  // The names come from what is about to be done, never from the caller's description of it.
  const [, org, app] = route.path.exec(path);
  const access = { org, app, action: route.action, ip: request.socket.remoteAddress };
  let found;
  try {
    found = await verdict(token, access);
  } catch (error) {
    console.error(`no verdict: ${error.cause?.code ?? error.message}`);
    const body = { error: 'the token could not be checked; try again' };
    return send(response, 503, body, { 'retry-after': '1' });
  }
  if (!found.allowed) {
    const status = ANOTHER_TOKEN.has(found.reason) ? 401 : 403;
    const headers = status === 401 ? { 'www-authenticate': 'Bearer error="invalid_token"' } : {};
    const body = { error: found.message, reason: found.reason, caveat: found.caveat };
    return send(response, status, body, headers);
  }
  // Here the work would be done.
  return send(response, 200, { done: route.action, org, app, by: found.subject });
}

const server = createServer({ requestTimeout: 10_000, maxHeaderSize: 16 * 1024 }, (request, response) => {
  handle(request, response).catch((error) => {
    console.error(`failed: ${error.message}`);
    if (!response.headersSent) send(response, 500, { error: 'internal error' });
    else response.destroy();
  });
});
server.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    server.close();
    server.closeIdleConnections();
  });
}
