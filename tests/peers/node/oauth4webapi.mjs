// Flows with oauth4webapi, which checks every answer against the standards and throws at what does not fit.
import * as oauth from "oauth4webapi";
import { ACCESS_TOKEN, EXCHANGE, ask, done, importKey, task } from "./person.mjs";

const issuer = new URL(task.issuer);
const as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, { algorithm: task.algorithm ?? "oauth2" }));
const client = { client_id: task.client.id };
const auth = task.client.jwk
  ? oauth.PrivateKeyJwt({ key: await importKey(task.client.jwk), kid: task.client.jwk.kid })
  : task.client.secret
    ? task.client.post
      ? oauth.ClientSecretPost(task.client.secret)
      : oauth.ClientSecretBasic(task.client.secret)
    : oauth.None();
const details = task.task ? JSON.stringify([{ type: "mcp_session", task: task.task }]) : undefined;

async function dpop() {
  return task.dpop ? oauth.DPoP(client, await oauth.generateKeyPair("ES256")) : undefined;
}

// A server that wants a nonce says so once; the handle then has it.
async function withNonce(send, process) {
  try {
    return await process(await send());
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) throw error;
    return { ...(await process(await send())), retried: true };
  }
}

async function code() {
  const DPoP = await dpop();
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const parameters = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: task.redirect_uri,
    response_type: "code",
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    resource: task.resource,
    state,
    ...(task.scope ? { scope: task.scope } : {}),
    ...(details ? { authorization_details: details } : {}),
  });
  const url = new URL(as.authorization_endpoint);
  if (task.par) {
    const pushed = await withNonce(
      () => oauth.pushedAuthorizationRequest(as, client, auth, parameters, { DPoP }),
      (response) => oauth.processPushedAuthorizationResponse(as, client, response),
    );
    url.searchParams.set("client_id", client.client_id);
    url.searchParams.set("request_uri", pushed.request_uri);
  } else {
    url.search = parameters.toString();
  }
  const { callback } = await ask({ open: url.href });
  const answer = oauth.validateAuthResponse(as, client, new URL(callback), state);
  const additionalParameters = { resource: task.resource };
  const tokens = await withNonce(
    () =>
      oauth.authorizationCodeGrantRequest(as, client, auth, answer, task.redirect_uri, verifier, {
        DPoP,
        additionalParameters,
      }),
    (response) => oauth.processAuthorizationCodeResponse(as, client, response),
  );
  return { tokens, DPoP, response: Object.fromEntries(new URL(callback).searchParams) };
}

async function refresh(tokens, DPoP) {
  return withNonce(
    () =>
      oauth.refreshTokenGrantRequest(as, client, auth, tokens.refresh_token, {
        DPoP,
        additionalParameters: { resource: task.resource },
      }),
    (response) => oauth.processRefreshTokenResponse(as, client, response),
  );
}

async function clientCredentials() {
  const DPoP = await dpop();
  const parameters = {
    resource: task.resource,
    ...(task.scope ? { scope: task.scope } : {}),
    ...(details ? { authorization_details: details } : {}),
  };
  const tokens = await withNonce(
    () => oauth.clientCredentialsGrantRequest(as, client, auth, parameters, { DPoP }),
    (response) => oauth.processClientCredentialsResponse(as, client, response),
  );
  return { tokens, DPoP };
}

async function device() {
  const parameters = { resource: task.resource, ...(task.scope ? { scope: task.scope } : {}) };
  const begun = await oauth.processDeviceAuthorizationResponse(
    as,
    client,
    await oauth.deviceAuthorizationRequest(as, client, auth, parameters),
  );
  const poll = async () => {
    const response = await oauth.deviceCodeGrantRequest(as, client, auth, begun.device_code);
    return oauth.processDeviceCodeResponse(as, client, response);
  };
  const first = await poll().catch((error) => error.error);
  await ask({ device: begun });
  return { tokens: await poll(), begun, first };
}

async function exchange() {
  const parameters = {
    subject_token: task.subject_token,
    subject_token_type: ACCESS_TOKEN,
    resource: task.resource,
    ...(task.scope ? { scope: task.scope } : {}),
  };
  const tokens = await oauth.processGenericTokenEndpointResponse(
    as,
    client,
    await oauth.genericTokenEndpointRequest(as, client, auth, EXCHANGE, parameters),
  );
  return { tokens };
}

async function introspect(token) {
  return oauth.processIntrospectionResponse(as, client, await oauth.introspectionRequest(as, client, auth, token));
}

async function revoke(token) {
  return oauth.processRevocationResponse(await oauth.revocationRequest(as, client, auth, token));
}

async function use(tokens, DPoP) {
  const headers = new Headers({
    accept: "application/json, text/event-stream",
    "content-type": "application/json",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": task.call.name,
  });
  const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: task.call };
  const send = () =>
    oauth.protectedResourceRequest(
      tokens.access_token,
      "POST",
      new URL(task.resource),
      headers,
      JSON.stringify(call),
      DPoP ? { DPoP } : undefined,
    );
  let response;
  try {
    response = await send();
  } catch (error) {
    if (!oauth.isDPoPNonceError(error)) {
      if (error instanceof oauth.WWWAuthenticateChallengeError) return { status: error.status };
      throw error;
    }
    response = await send();
  }
  return { status: response.status, body: await response.text() };
}

const flows = { code, client_credentials: clientCredentials, device, exchange };
const result = await flows[task.flow]();
const { DPoP } = result;
const { tokens, begun, first, response } = result;
const seen = { tokens, begun, first, response };
if (task.call) seen.used = await use(result.tokens, DPoP);
if (task.refresh) {
  seen.refreshed = await refresh(result.tokens, DPoP);
  if (task.call) seen.usedAgain = await use(seen.refreshed, DPoP);
}
if (task.introspect) {
  const latest = seen.refreshed ?? seen.tokens;
  seen.introspected = await introspect(latest.access_token);
  await revoke(latest.refresh_token ?? latest.access_token);
  seen.after = await introspect(latest.access_token);
  if (task.call) seen.usedAfter = await use(latest, DPoP);
}
done(seen);
