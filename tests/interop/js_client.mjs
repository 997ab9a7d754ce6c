// matrix-js-sdk against the server that HAIMA_URL names: what a client that is built on it does, each step checked.

import assert from "node:assert";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel?.("error");
const baseUrl = process.env.HAIMA_URL;
const password = "correct horse battery";
// How long to wait for what another client did, in milliseconds.
const PATIENCE_MS = 30_000;

async function step(name, promise) {
    const result = await promise;
    console.log(`   ${name}`);
    return result;
}

async function register(username) {
    const client = sdk.createClient({ baseUrl });
    const body = { username, password, inhibit_login: true };
    const asked = await client.registerRequest(body).then(
        () => assert.fail("nothing was asked for"),
        (error) => error.data,
    );
    const auth = { type: "m.login.dummy", session: asked.session };
    await step(`register ${username}`, client.registerRequest({ ...body, auth }));
    const session = await step(
        `log in as ${username}`,
        client.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: username },
            password,
            initial_device_display_name: `${username}'s client`,
        }),
    );
    const { user_id: userId, device_id: deviceId, access_token: accessToken } = session;
    return sdk.createClient({ baseUrl, userId, deviceId, accessToken });
}

/** Resolves with what `found` gives for an event of the client, once it gives something. */
function seen(client, kind, found) {
    return new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`nothing seen of ${kind}`)), PATIENCE_MS);
        client.on(kind, (...parts) => {
            const result = found(...parts);
            if (result) {
                clearTimeout(late);
                resolve(result);
            }
        });
    });
}

async function start(client) {
    const prepared = seen(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 10, threadSupport: true });
    await step(`sync ${client.getUserId()}`, prepared);
}

const membership = (client, room, wanted) =>
    seen(client, sdk.RoomEvent.MyMembership, (which, now) => which.roomId === room && now === wanted);

const message = (client, room, body) =>
    seen(client, sdk.RoomEvent.Timeline, (event, which) => {
        return which?.roomId === room && event.getContent().body === body && !event.status && event;
    });

const alice = await register("js-alice");
const bob = await register("js-bob");
await start(alice);
await start(bob);
const { devices } = await step("devices", alice.getDevices());
assert(devices.some((device) => device.display_name === "js-alice's client"));

const { room_id: reef } = await step(
    "create a public room",
    alice.createRoom({ visibility: "public", preset: "public_chat", room_alias_name: "js-reef", name: "Reef" }),
);
const { chunk } = await step("list public rooms", bob.publicRooms({ limit: 50 }));
assert(chunk.some((room) => room.room_id === reef && room.name === "Reef"));
await step("join by alias", Promise.all([membership(bob, reef, "join"), bob.joinRoom("#js-reef:localhost")]));
await step("leave", Promise.all([membership(bob, reef, "leave"), bob.leave(reef)]));
await step("join by id", Promise.all([membership(bob, reef, "join"), bob.joinRoom(reef)]));

const invited = seen(bob, sdk.RoomEvent.MyMembership, (room, now) => now === "invite" && room);
const { room_id: cave } = await step(
    "create a direct chat",
    alice.createRoom({ preset: "trusted_private_chat", is_direct: true, invite: [bob.getUserId()] }),
);
const invite = await step("be invited", invited);
assert.equal(invite.roomId, cave);
assert.equal(invite.getDMInviter(), alice.getUserId());
assert.match(invite.name, /js-alice/);
await step("accept the invite", Promise.all([membership(bob, cave, "join"), bob.joinRoom(cave)]));

for (const [sender, reader, room] of [[alice, bob, cave], [bob, alice, reef]]) {
    const text = `hello from ${sender.getUserId()}`;
    const received = message(reader, room, text);
    await step("send", sender.sendTextMessage(room, text));
    const event = await step("receive", received);
    await step("receipt", reader.sendReadReceipt(event));
    await step("typing", reader.sendTyping(room, true, 5000));
    const answer = message(sender, room, "in a thread");
    const content = { msgtype: "m.text", body: "in a thread", "m.relates_to": { rel_type: "m.thread", event_id: event.getId() } };
    await step("answer in a thread", reader.sendMessage(room, event.getId(), content));
    await step("receive the answer", answer);
    const reaction = { "m.relates_to": { rel_type: "m.annotation", event_id: event.getId(), key: "+1" } };
    await step("react", reader.sendEvent(room, "m.reaction", reaction));
    await step("redact", sender.redactEvent(room, event.getId()));
}
await step("history", alice.scrollback(alice.getRoom(reef), 30));
for (const client of [alice, bob]) {
    client.stopClient();
    await step("log out", client.logout(true));
}
process.exit(0);
