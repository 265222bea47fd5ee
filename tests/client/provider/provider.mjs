// A certified OpenID provider with users that sign in by typing their address, for the client's tests.
// Its configuration is one JSON argument: {issuer, port, jwks, clients: [...], life: {CLIENT_ID: seconds}}.
import { createHash } from 'node:crypto';
import Provider from 'oidc-provider';

const settings = JSON.parse(process.argv[2]);

const provider = new Provider(settings.issuer, {
  clients: settings.clients,
  jwks: settings.jwks,
  cookies: { keys: ['only for tests'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'] },
  conformIdTokenClaims: false, // the e-mail stands in the identity token, as with Google, Entra and Okta
  findAccount: (_context, address) => ({
    accountId: address,
    claims: () => ({ sub: address, email: address, email_verified: true }),
  }),
  features: {
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    devInteractions: { enabled: true },
  },
  pkce: { required: () => true },
  rotateRefreshToken: true, // and a refresh token used twice ends the whole sign-in
  ttl: {
    IdToken: (_context, _token, client) => settings.life[client.clientId] ?? 3600,
    AccessToken: 60,
    RefreshToken: 3600,
    Session: 3600,
    Grant: 3600,
    Interaction: 300,
    DeviceCode: 120,
  },
});

// As Keycloak does for a client that must use PKCE: the device code grant too (this library asks it of authorization codes alone).
const challenges = new Map();
provider.use(async (context, next) => {
  if (context.method !== 'POST' || !['/device/auth', '/token'].includes(context.path)) return next();
  const chunks = [];
  for await (const chunk of context.req) chunks.push(chunk);
  context.req.body = Buffer.concat(chunks).toString();
  const form = new URLSearchParams(context.req.body);
  const refuse = (error, description) => {
    context.status = 400;
    context.body = { error, error_description: description };
  };
  if (context.path === '/device/auth') {
    if (form.get('code_challenge_method') !== 'S256' || !form.get('code_challenge'))
      return refuse('invalid_request', 'Missing parameter: code_challenge_method');
    await next();
    if (context.body?.device_code) challenges.set(context.body.device_code, form.get('code_challenge'));
    return;
  }
  if (form.get('grant_type')?.endsWith(':device_code')) {
    const made = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url');
    if (made !== challenges.get(form.get('device_code'))) return refuse('invalid_grant', 'PKCE verification failed');
  }
  return next();
});

// One line for each request that was answered: what the tests count.
provider.use(async (context, next) => {
  await next();
  console.log(JSON.stringify({
    path: context.path,
    status: context.status,
    grant: context.oidc?.params?.grant_type,
    client: context.oidc?.client?.clientId,
  }));
});
provider.on('server_error', (_context, error) => console.error(error));
provider.listen(settings.port, '127.0.0.1', () => console.log('{"ready": true}'));
