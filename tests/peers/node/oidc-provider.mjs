// A real OpenID provider (npm: oidc-provider) as an external issuer. The setup comes as one JSON document on standard
// input; "ready" on standard output means that it listens. It ends with SIGTERM. Whoever comes to log in is the user of
// the setup, who agrees to everything.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { errors, Provider } from 'oidc-provider';

const setup = JSON.parse(readFileSync(0, 'utf8'));

// Who has an account, and their claims; tests change it while the provider runs.
const people = new Map(Object.entries({ [setup.user.id]: {}, ...setup.people }));

const provider = new Provider(setup.issuer, {
  jwks: setup.jwks,
  clients: setup.logins.concat(setup.clients.map(({ id, jwks, redirect, certificate }) => ({
    client_id: id,
    jwks,
    tls_client_certificate_bound_access_tokens: certificate === true,
    token_endpoint_auth_method: 'private_key_jwt',
    id_token_signed_response_alg: 'ES256',
    grant_types: [redirect ? 'authorization_code' : 'client_credentials'],
    response_types: redirect ? ['code'] : [],
    redirect_uris: redirect ? [redirect] : [],
  }))),
  // ID tokens of logins say what their scopes stand for, as those of most providers do.
  conformIdTokenClaims: false,
  claims: { openid: ['sub'], profile: ['preferred_username', 'name'], groups: ['groups'] },
  scopes: ['openid', 'offline_access', 'profile', 'groups'],
  rotateRefreshToken: true,
  clientAuthMethods: ['private_key_jwt', 'client_secret_basic'],
  extraTokenClaims: (ctx, token) => ({ ...setup.claims, ...(token.accountId ? setup.user.claims : {}) }),
  findAccount: (ctx, id) => (people.has(id) ? { accountId: id, claims: () => ({ sub: id, ...people.get(id) }) } : undefined),
  interactions: { url: (ctx, { uid }) => `/interaction/${uid}` },
  cookies: { keys: ['for tests'] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true },
    dPoP: { enabled: true },
    // Tokens are bound to the certificate of the connection, whoever issued it; the clients authenticate by other means.
    mTLS: {
      enabled: true,
      certificateBoundAccessTokens: true,
      getCertificate: (ctx) => ctx.socket.getPeerX509Certificate(),
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(ctx, resource, client) {
        if (!setup.resources.includes(resource)) throw new errors.InvalidTarget();
        const { alg } = setup.clients.find(({ id }) => id === client.clientId);
        return {
          scope: 'mcp:read mcp:write',
          audience: resource,
          accessTokenTTL: setup.lifetime,
          accessTokenFormat: alg === null ? 'opaque' : 'jwt',
          jwt: { sign: { alg: alg ?? 'ES256' } },
        };
      },
    },
  },
});

provider.use(async (ctx, next) => {
  if (ctx.path === '/for-tests/people') {
    const { id, claims } = JSON.parse(ctx.query.change);
    if (claims) people.set(id, claims);
    else people.delete(id);
    ctx.status = 204;
    return;
  }
  if (!ctx.path.startsWith('/interaction/')) return next();
  const { prompt, params, session, grantId } = await provider.interactionDetails(ctx.req, ctx.res);
  let result = { login: { accountId: setup.user.id } };
  if (prompt.name === 'consent') {
    const grant = grantId
      ? await provider.Grant.find(grantId)
      : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.resource ? 'openid' : params.scope);
    if (params.resource) grant.addResourceScope(params.resource, 'mcp:read');
    result = { consent: { grantId: await grant.save() } };
  }
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, { mergeWithLastSubmission: true }));
});

const tls = {
  cert: readFileSync(setup.certificate), key: readFileSync(setup.key), requestCert: true, rejectUnauthorized: false,
};
createServer(tls, provider.callback()).listen(setup.port, '127.0.0.1', () => console.log('ready'));
