// Pulls events from a relay: RELAY_URL, RELAY_TOKEN (scope deliveries:write), and a subscription of protocol PULL.
//
//     node examples/pull.mjs sub_...
const { RELAY_URL = "http://127.0.0.1:8080", RELAY_TOKEN = "" } = process.env;
const base = `${RELAY_URL}/v1/subscriptions/${process.argv[2]}`;
const headers = { "Content-Type": "application/json", Authorization: `Bearer ${RELAY_TOKEN}` };

async function post(action, body) {
  const response = await fetch(`${base}/${action}`, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  return response.json();
}

async function handle(event, deliveryId) {
  // may come twice: drop delivery ids that you know
  console.log(event.type, event.subject);
}

for (;;) {
  try {
    const { items } = await post("pull", { max: 100, wait_seconds: 20, lease_seconds: 60 });
    for (const { delivery_id, event } of items) {
      await handle(event, delivery_id);
      await post("ack", { ids: [delivery_id] }); // what is not acknowledged comes again, in order
    }
  } catch (error) {
    console.error(error.message);
    await new Promise((resolve) => setTimeout(resolve, 5000)); // the relay is away
  }
}
