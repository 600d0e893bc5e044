// An issuer that others have written, over https: `node server.mjs CERT KEY PORT CONTROL_PORT`.
// A token's subject is the client's id. `POST /rotate?alg=…` at the control port publishes one more key; tokens are then
// signed with each of them in turn.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { Events, OAuth2Server } = createRequire(`${process.env.ISSUER_INSTALLED_AT}/`)("oauth2-mock-server");
const [cert, key, port, controlPort] = process.argv.slice(2);

const server = new OAuth2Server(key, cert);
server.service.on(Events.BeforeTokenSigning, (token, request) => {
  token.payload.sub = request.body.client_id;
});
await server.issuer.keys.generate("RS256");
await server.start(Number(port), "localhost");

createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://control");
  if (pathname === "/rotate") {
    const alg = searchParams.get("alg");
    const made = await server.issuer.keys.generate(alg, alg === "EdDSA" ? { crv: "Ed25519" } : {});
    response.end(made.kid);
  } else {
    response.end("ok");
  }
}).listen(Number(controlPort), "127.0.0.1");
