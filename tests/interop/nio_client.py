"""matrix-nio against the server that HAIMA_URL names: what its bots do, each step checked."""

import asyncio
import os
import sys

import nio
from nio.responses import PublicRoomsResponse

URL = os.environ["HAIMA_URL"]
PASSWORD = "correct horse battery"


def step(name, answer, kind):
    """Ends the script unless the answer is of the kind that the library gives for success."""
    if not isinstance(answer, kind):
        sys.exit(f"{name}: {answer!r}")
    print(f"   {name}")
    return answer


async def register(name):
    client = nio.AsyncClient(URL)
    step(f"register {name}", await client.register(name, PASSWORD), nio.RegisterResponse)
    await client.close()
    client = nio.AsyncClient(URL, f"@{name}:localhost")
    step(f"log in as {name}", await client.login(PASSWORD, device_name=f"{name}'s bot"), nio.LoginResponse)
    return client


async def received(client, room, text):
    """Syncs until a message is there."""
    for _ in range(20):
        answer = step("sync", await client.sync(timeout=5000), nio.SyncResponse)
        joined = answer.rooms.join.get(room)
        for event in joined.timeline.events if joined else []:
            if isinstance(event, nio.RoomMessageText) and event.body == text:
                print(f"   received {text!r}")
                return event
    sys.exit(f"{text!r} was not received")


async def main():
    alice, bob = await register("nio-alice"), await register("nio-bob")
    for client in (alice, bob):
        step("first sync", await client.sync(timeout=0, full_state=True), nio.SyncResponse)
    devices = step("devices", await alice.devices(), nio.DevicesResponse).devices
    assert len(devices) == 2, devices

    public = await alice.room_create(
        visibility=nio.RoomVisibility.public, preset=nio.RoomPreset.public_chat, alias="nio-reef", name="Reef", topic="Fish"
    )
    public = step("create a public room", public, nio.RoomCreateResponse).room_id
    rooms = step("list public rooms", await bob.list_public_rooms(), PublicRoomsResponse).public_rooms
    assert any(room.room_id == public for room in rooms), rooms
    step("join by alias", await bob.join("#nio-reef:localhost"), nio.JoinResponse)
    step("leave", await bob.room_leave(public), nio.RoomLeaveResponse)
    step("join by id", await bob.join(public), nio.JoinResponse)

    private = step("create a private room", await alice.room_create(name="Cave"), nio.RoomCreateResponse).room_id
    step("invite", await alice.room_invite(private, bob.user_id), nio.RoomInviteResponse)
    step("sync", await bob.sync(timeout=5000), nio.SyncResponse)
    assert private in bob.invited_rooms, bob.invited_rooms
    assert bob.invited_rooms[private].inviter == alice.user_id, bob.invited_rooms[private].inviter
    step("accept the invite", await bob.join(private), nio.JoinResponse)
    assert private in step("joined rooms", await bob.joined_rooms(), nio.JoinedRoomsResponse).rooms

    for sender, reader, room in ((alice, bob, private), (bob, alice, public)):
        step("sync", await reader.sync(timeout=0), nio.SyncResponse)
        content = {"msgtype": "m.text", "body": f"hello from {sender.user}"}
        step("send", await sender.room_send(room, "m.room.message", content), nio.RoomSendResponse)
        event = await received(reader, room, content["body"])
        step("read marker", await reader.room_read_markers(room, event.event_id, event.event_id), nio.RoomReadMarkersResponse)
        step("typing", await reader.room_typing(room), nio.RoomTypingResponse)
    step("members", await alice.joined_members(public), nio.JoinedMembersResponse)
    start = alice.next_batch
    page = step("history", await alice.room_messages(public, start), nio.RoomMessagesResponse)
    assert page.chunk and page.end, page
    step("profile", await bob.set_displayname("Bob"), nio.ProfileSetDisplayNameResponse)
    step("forget", await bob.room_leave(private), nio.RoomLeaveResponse)
    step("forget", await bob.room_forget(private), nio.RoomForgetResponse)
    for client in (alice, bob):
        step("log out", await client.logout(), nio.LogoutResponse)
        await client.close()


asyncio.run(main())
