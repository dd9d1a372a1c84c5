'use strict';

// The npm package "macaroon", asked line by line: each line of stdin is one question in JSON, each
// line of stdout its answer. Bytes travel as base64. What the package throws is answered as `error`.

const readline = require('node:readline');
const macaroon = require('macaroon');

// Version 3.0.4 doubles its buffer at every field that it writes, because it never sets the size
// that it compares with, and asks for gigabytes from the fourth caveat on. Here is that size.
Object.defineProperty(Object.prototype, '_capacity', {
  get() {
    return this._buf ? this._buf.length : undefined;
  },
});

const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'));
const base64 = (data) => Buffer.from(data).toString('base64');
const read = (text) => macaroon.importMacaroon(bytes(text));
const written = (made) => ({ binary: base64(made.exportBinary()) });

const answers = {
  read({ binary }) {
    const found = read(binary);
    return {
      location: found.location,
      identifier: base64(found.identifier),
      signature: base64(found.signature),
      caveats: found.caveats.map((caveat) => ({
        cid: base64(caveat.identifier),
        vid: caveat.vid ? base64(caveat.vid) : null,
        location: caveat.location || null,
      })),
      binary: base64(found.exportBinary()),
    };
  },

  mint({ secret, identifier, location, caveats }) {
    const made = macaroon.newMacaroon({
      version: 2,
      rootKey: bytes(secret),
      identifier: bytes(identifier),
      location,
    });
    caveats.forEach((caveat) => made.addFirstPartyCaveat(bytes(caveat)));
    return written(made);
  },

  attenuate({ binary, caveats }) {
    const made = read(binary);
    caveats.forEach((caveat) => made.addFirstPartyCaveat(bytes(caveat)));
    return written(made);
  },

  require({ binary, key, ticket, location }) {
    const made = read(binary);
    made.addThirdPartyCaveat(bytes(key), bytes(ticket), location);
    return written(made);
  },

  bind({ root, discharge }) {
    const made = read(discharge);
    made.bindToRoot(read(root).signature);
    return written(made);
  },

  // What it takes the token for: the conditions in the order in which it meets them.
  verify({ root, secret, discharges }) {
    const conditions = [];
    const hold = (condition) => {
      conditions.push(condition);
      return null;
    };
    read(root).verify(bytes(secret), hold, discharges.map(read));
    return { conditions };
  },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { ask, ...given } = JSON.parse(line);
  let answer;
  try {
    answer = answers[ask](given);
  } catch (error) {
    answer = { error: String(error.message) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
