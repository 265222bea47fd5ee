// A certified OpenID provider with users that sign in by typing their address, for the client's tests.
// Its configuration is one JSON argument: {issuer, port, jwks, clients: [...], life: {CLIENT_ID: seconds}}.
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
