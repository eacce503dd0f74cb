// Implementations of SCIM that Cetrus did not write, asked line by line for one test run.
//
//   node foreign.mjs NODE_MODULES
//
// reads one request of JSON a line and answers with one line: {"value": …}, or {"refused": "why"}.
// It ends with its standard input.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const from = (path) => import(pathToFileURL(`${process.argv[2]}/${path}`));
const { default: filters } = await from('scim2-parse-filter/lib/src/index.js');
const { default: patches } = await from('scim-patch/lib/src/scimPatch.js');
const { default: SCIMMY } = await from('scimmy/dist/scimmy.js');

const { Schemas, Messages } = SCIMMY;
const plain = (value) => JSON.parse(JSON.stringify(value));

const answers = {
  // Which of some resources a filter means.
  filter: ({ text, resources }) => resources.map(filters.filter(filters.parse(text))),
  // What a PATCH makes of a resource.
  'scim-patch': ({ resource, body }) => {
    patches.patchBodyValidation(body);
    return patches.scimPatch(resource, body.Operations);
  },
  scimmy: async ({ kind, resource, body }) => {
    const patched = await new Messages.PatchOp(body).apply(new Schemas[kind](resource));
    return plain(patched ?? resource); // nothing where nothing changes
  },
  // What is left of a resource where only what its schema allows is.
  conform: ({ kind, resource, base }) => plain(base ? new Schemas[kind](resource, 'out', base) : new Schemas[kind](resource)),
  // What a provider of scimmy would send to have a resource made.
  send: ({ kind, resource }) => plain(new Schemas[kind](resource, 'in')),
  describe: ({ kind }) => plain(Schemas[kind].definition.describe()),
  list: ({ resource }) => plain(new Messages.ListResponse(resource)),
  // An error is thrown as one where it is one of SCIM.
  error: ({ resource }) => {
    let thrown;
    try { new Messages.ErrorResponse(resource); } catch (e) { thrown = e; }
    if (thrown?.name !== 'SCIMError') throw thrown ?? new Error('not taken for an error');
    const { schemas, ...details } = resource;
    return plain(new Messages.ErrorResponse(details));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const request = JSON.parse(line);
    answer = { value: await answers[request.ask](request) };
  } catch (e) {
    answer = { refused: String(e?.message || e) };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
