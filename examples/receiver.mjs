// Receives signed events. Run: npm install standardwebhooks && WEBHOOK_SECRET=$(relay signing-secret) node receiver.mjs
import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const secret = process.env.WEBHOOK_SECRET;
if (!secret) {
  console.error("run first: export WEBHOOK_SECRET=$(relay signing-secret)");
  process.exit(1);
}
const webhook = new Webhook(secret);
const known = new Set(); // keep yours in your database

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  try {
    const event = webhook.verify(Buffer.concat(chunks).toString("utf8"), request.headers);
    const id = request.headers["webhook-id"];
    if (!known.has(id)) {
      known.add(id);
      console.log(event.type, event.subject, event.sequence ?? "");
    }
    response.writeHead(204).end();
  } catch {
    response.writeHead(401).end();
  }
}).listen(3000, "127.0.0.1");
