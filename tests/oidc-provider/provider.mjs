// A provider as its makers deliver it (https://github.com/panva/node-oidc-provider), with its own pages, one client, and
// an account for whatever name is typed: the name is `sub`, and the e-mail address unless it has none.
// node provider.mjs NODE_MODULES SETTINGS, where SETTINGS is JSON.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

const [modules, settings] = process.argv.slice(2);
const { default: Provider } = await import(`${modules}/oidc-provider/lib/index.js`);
const { issuer, port, cert, key, client, email_in_token } = JSON.parse(settings);

const provider = new Provider(issuer, {
  clients: [client],
  pkce: { required: () => true },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: !email_in_token,
  cookies: { keys: ['of the tests alone'] },
  findAccount: (_, name) => ({
    accountId: name,
    claims: () => ({ sub: name, email: name, email_verified: !name.startsWith('unverified') }),
  }),
});
for (const event of ['authorization.error', 'grant.error', 'server_error']) {
  provider.on(event, (_, error) => console.log(event, error.message, error.error_detail ?? ''));
}
const tls = { cert: readFileSync(cert), key: readFileSync(key) };
createServer(tls, provider.callback()).listen(port, () => console.log('listening'));
