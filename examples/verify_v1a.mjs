import { createPublicKey, verify } from "node:crypto";

// Whether the raw bytes of a request were signed with one of these public keys (whpk_…).
export function verifyV1a(publicKeys, headers, body) {
  const timestamp = headers["webhook-timestamp"];
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300)) return false;
  const content = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${timestamp}.`), body]);
  const signatures = headers["webhook-signature"].split(" ").filter((part) => part.startsWith("v1a,"));
  return publicKeys.some((key) => {
    const x = Buffer.from(key.slice("whpk_".length), "base64").toString("base64url");
    const publicKey = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
    return signatures.some((part) => verify(null, content, publicKey, Buffer.from(part.slice("v1a,".length), "base64")));
  });
}
