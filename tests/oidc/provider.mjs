// A real OpenID Connect provider for the tests of single sign-on: node provider.mjs '<JSON>', with
// port, issuer, redirectUris, clientId, clientSecret, accounts {login: claims}, and otherKeys (publish keys that
// have signed nothing).
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const { port, issuer, redirectUris, clientId, clientSecret, accounts, otherKeys } = JSON.parse(process.argv[2]);

const makeKey = () => {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...privateKey.export({ format: 'jwk' }), kid: 'the-key', use: 'sig', alg: 'RS256' };
};
const publicPart = ({ kty, n, e, kid, use, alg }) => ({ kty, n, e, kid, use, alg });

const provider = new Provider(issuer, {
  clients: [{
    client_id: clientId,
    client_secret: clientSecret,
    redirect_uris: redirectUris,
    grant_types: ['authorization_code'],
    response_types: ['code'],
  }],
  jwks: { keys: [makeKey()] },
  cookies: { keys: ['for tests alone'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  pkce: { methods: ['S256'], required: () => true },
  ttl: { Session: 3600, Grant: 3600, Interaction: 600, AuthorizationCode: 60, AccessToken: 600, IdToken: 600 },
  features: { devInteractions: { enabled: true } },
  findAccount: (_ctx, id) => accounts[id] && { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) },
});

if (otherKeys) {
  const published = { keys: [publicPart(makeKey())] };
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.path === '/jwks') ctx.body = published;
  });
}

createServer(provider.callback()).listen(port, '127.0.0.1');
