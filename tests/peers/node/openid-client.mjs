// Flows with openid-client, as an application uses it.
import * as client from "openid-client";
import { ACCESS_TOKEN, EXCHANGE, ask, done, importKey, task } from "./person.mjs";

const auth = task.client.jwk
  ? client.PrivateKeyJwt({ key: await importKey(task.client.jwk), kid: task.client.jwk.kid })
  : task.client.secret
    ? task.client.post
      ? client.ClientSecretPost(task.client.secret)
      : client.ClientSecretBasic(task.client.secret)
    : client.None();
const metadata = { use_mtls_endpoint_aliases: false };
const config = await client.discovery(new URL(task.issuer), task.client.id, metadata, auth, {
  algorithm: task.algorithm ?? "oauth2",
});
const details = task.task ? JSON.stringify([{ type: "mcp_session", task: task.task }]) : undefined;
const DPoP = task.dpop ? client.getDPoPHandle(config, await client.randomDPoPKeyPair("ES256")) : undefined;
const wanted = {
  resource: task.resource,
  ...(task.scope ? { scope: task.scope } : {}),
  ...(details ? { authorization_details: details } : {}),
};

async function code() {
  const pkceCodeVerifier = client.randomPKCECodeVerifier();
  const expectedState = client.randomState();
  const parameters = {
    ...wanted,
    redirect_uri: task.redirect_uri,
    code_challenge: await client.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: "S256",
    state: expectedState,
  };
  const url = task.par
    ? await client.buildAuthorizationUrlWithPAR(config, parameters, { DPoP })
    : client.buildAuthorizationUrl(config, parameters);
  const { callback } = await ask({ open: url.href });
  return client.authorizationCodeGrant(
    config,
    new URL(callback),
    { pkceCodeVerifier, expectedState },
    { resource: task.resource },
    { DPoP },
  );
}

async function device() {
  const begun = await client.initiateDeviceAuthorization(config, wanted);
  const tokens = client.pollDeviceAuthorizationGrant(config, begun, undefined, { DPoP });
  await ask({ device: begun });
  return tokens;
}

function exchange() {
  const parameters = { ...wanted, subject_token: task.subject_token, subject_token_type: ACCESS_TOKEN };
  return client.genericGrantRequest(config, EXCHANGE, parameters);
}

async function use(tokens) {
  const headers = new Headers({
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": task.call.name,
  });
  const call = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params: task.call });
  try {
    const url = new URL(task.resource);
    const response = await client.fetchProtectedResource(config, tokens.access_token, url, "POST", call, headers, { DPoP });
    return { status: response.status, body: await response.text() };
  } catch (error) {
    if (error instanceof client.WWWAuthenticateChallengeError) return { status: error.status };
    throw error;
  }
}

const flows = {
  code,
  device,
  exchange,
  client_credentials: () => client.clientCredentialsGrant(config, wanted, { DPoP }),
};
const tokens = await flows[task.flow]();
const seen = { tokens };
if (task.call) seen.used = await use(tokens);
if (task.refresh) {
  seen.refreshed = await client.refreshTokenGrant(config, tokens.refresh_token, { resource: task.resource }, { DPoP });
  if (task.call) seen.usedAgain = await use(seen.refreshed);
}
if (task.introspect) {
  const latest = seen.refreshed ?? tokens;
  seen.introspected = await client.tokenIntrospection(config, latest.access_token);
  await client.tokenRevocation(config, latest.refresh_token ?? latest.access_token);
  seen.after = await client.tokenIntrospection(config, latest.access_token);
  if (task.call) seen.usedAfter = await use(latest);
}
done(seen);
