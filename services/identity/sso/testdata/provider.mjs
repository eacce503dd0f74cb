// An OpenID Connect provider that Cetrus did not write (npm's oidc-provider), for one test run.
//
//   node provider.mjs MODULE CLIENT_ID CLIENT_SECRET REDIRECT_URL
//
// prints its issuer once it listens on a free port of the loopback address, and ends with its
// standard input.
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [module, clientID, clientSecret, redirectURL] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(module));

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: clientID, client_secret: clientSecret, redirect_uris: [redirectURL] }],
    claims: { openid: ['sub'], profile: ['preferred_username', 'name'], email: ['email', 'email_verified'], groups: ['groups'] },
    scopes: ['openid', 'profile', 'email', 'groups'],
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, preferred_username: id, name: `${id} of the provider`, email: `${id}@example.com`, email_verified: true, groups: ['analysts'],
      }),
    }),
    cookies: { keys: ['of this test run'] },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
