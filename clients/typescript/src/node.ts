/** Node's `http` for a receiver. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";

type Receive = (request: Request) => Promise<Response>;

/** A handler for `http.createServer`, and for frameworks that pass its requests on with unread bodies. */
export function nodeHandler(receive: Receive): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  return async (request, response) => {
    let answer: Response;
    try {
      const { method = "GET" } = request;
      const headers = new Headers(request.headers as Record<string, string>);
      const body = !["GET", "HEAD"].includes(method) ? (Readable.toWeb(request) as ReadableStream<Uint8Array>) : null;
      answer = await receive(new Request("http://receiver/", { method, headers, body, duplex: "half" } as RequestInit));
    } catch (error) {
      console.error(error);
      answer = new Response(null, { status: 500 });
    }
    response.writeHead(answer.status, Object.fromEntries(answer.headers)); // a handshake is agreed to by headers
    response.end(await answer.text());
  };
}

/** A server for a receiver, and its address. Port 0: a free one. */
export async function serve(
  receive: Receive,
  { port = 0, host = "127.0.0.1" }: { port?: number; host?: string } = {},
): Promise<{ url: string; close: () => void }> {
  const server = createServer(nodeHandler(receive));
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
  const at = server.address() as AddressInfo;
  return {
    url: `http://${host}:${at.port}`,
    close: () => {
      server.close();
      server.closeAllConnections();
    },
  };
}
