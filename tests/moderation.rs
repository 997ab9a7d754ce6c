//! Commands for whoever runs the server: the same beside a running server and without one.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    media::{get, upload},
    support::{SERVER_PATIENCE, Server, encode, password},
};

/// What a command printed, if it succeeded; else what it said on standard error.
fn run(server: &Server, input: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command: Command = server.command();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// A server that runs, or that is stopped while commands are given.
struct Place {
    server: Server,
    beside: bool,
}

impl Place {
    fn both(settings: &str) -> [Self; 2] {
        [true, false].map(|beside| Self { server: Server::start_with(settings), beside })
    }

    /// Gives commands, each of which must succeed, and what they print.
    fn give(&mut self, commands: &[&[&str]]) -> Vec<String> {
        self.give_with("", commands)
    }

    fn give_with(&mut self, input: &str, commands: &[&[&str]]) -> Vec<String> {
        if !self.beside {
            self.server.stop();
        }
        let printed = commands.iter().map(|command| match run(&self.server, input, command) {
            Ok(printed) => printed,
            Err(error) => panic!("{command:?}: {error}"),
        });
        let printed = printed.collect();
        if !self.beside {
            self.server.restart();
        }
        printed
    }

    /// The status and errcode of a request.
    async fn status(&self, token: &str, path: &str) -> (u16, Option<String>) {
        let path = format!("/_matrix/client{path}");
        let (status, answer) = self.server.request_as(Some(token), Method::GET, &path, None).await;
        (status.as_u16(), answer["errcode"].as_str().map(str::to_owned))
    }

    async fn login(&self, name: &str, password: &str) -> (StatusCode, Value) {
        let identifier = json!({ "type": "m.id.user", "user": name });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        self.server.request(Method::POST, "/_matrix/client/v3/login", Some(body)).await
    }
}

fn errcode(status: u16, errcode: &str) -> (u16, Option<String>) {
    (status, Some(errcode.to_owned()))
}

#[tokio::test]
async fn users_are_locked_suspended_and_deactivated() {
    for mut place in Place::both("") {
        let token = place.server.register("bob").await.token;
        let whoami = "/v3/account/whoami";
        let printed = place.give(&[&["lock-user", "bob"]]);
        assert_eq!(printed, ["Locked @bob:localhost.\n"]);
        assert_eq!(place.status(&token, whoami).await, errcode(401, "M_USER_LOCKED"));
        place.give(&[&["unlock-user", "@bob:localhost"], &["suspend-user", "BOB"]]);
        assert_eq!(place.status(&token, whoami).await, (200, None));
        let create = ("/_matrix/client/v3/createRoom", Some(json!({})));
        let (_, answer) = place.server.request_as(Some(&token), Method::POST, create.0, create.1.clone()).await;
        assert_eq!(answer["errcode"], "M_USER_SUSPENDED");
        place.give(&[&["unsuspend-user", "bob"]]);
        let (_, made) = place.server.request_as(Some(&token), Method::POST, create.0, create.1).await;
        let room = made["room_id"].as_str().expect("a room").to_owned();
        place.give(&[&["deactivate-user", "bob", "--erase"]]);
        assert_eq!(place.status(&token, whoami).await, errcode(401, "M_UNKNOWN_TOKEN"));
        let (status, _) = place.login("bob", &password("bob")).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
        let listed = place.give(&[&["list-users"]]).remove(0);
        assert!(listed.starts_with("@bob:localhost\tdeactivated,erased\t20"), "{listed}");
        assert!(place.give(&[&["list-rooms"]])[0].starts_with(&room));
    }
}

#[tokio::test]
async fn passwords_are_reset_and_admins_made() {
    for mut place in Place::both("") {
        let token = place.server.register("bob").await.token;
        let whoami = "/v3/account/whoami";
        place.give_with("an entirely new one\n", &[&["reset-password", "bob", "--keep-devices"]]);
        assert_eq!(place.status(&token, whoami).await, (200, None));
        assert_eq!(place.login("bob", &password("bob")).await.0, StatusCode::FORBIDDEN);
        assert_eq!(place.login("bob", "an entirely new one").await.0, StatusCode::OK);
        place.give_with("yet another one\n", &[&["reset-password", "bob"]]);
        assert_eq!(place.status(&token, whoami).await, errcode(401, "M_UNKNOWN_TOKEN"));
        let (_, session) = place.login("bob", "yet another one").await;
        let token = session["access_token"].as_str().expect("a token").to_owned();

        // Only admins may delete the aliases of others.
        place.give_with("a very good one\n", &[&["create-user", "alice"]]);
        let (_, alice) = place.login("alice", "a very good one").await;
        let alice = place.server.user("@alice:localhost", "", alice["access_token"].as_str().expect("a token"));
        for alias in ["one", "two"] {
            alice.create_room(json!({ "room_alias_name": alias })).await;
        }
        let delete = async |place: &Place, alias: &str| {
            let path = format!("/_matrix/client/v3/directory/room/%23{alias}:localhost");
            place.server.request_as(Some(&token), Method::DELETE, &path, None).await.0
        };
        assert_eq!(delete(&place, "one").await, StatusCode::FORBIDDEN);
        place.give(&[&["make-admin", "bob"]]);
        assert_eq!(delete(&place, "one").await, StatusCode::OK);
        let listed = place.give(&[&["list-users"]]).remove(0);
        let special: Vec<_> = listed.lines().map(|line| line.split('\t').nth(1).expect("a field")).collect();
        assert_eq!(special, ["-", "admin"]);
        place.give(&[&["revoke-admin", "bob"]]);
        assert_eq!(delete(&place, "two").await, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn registration_tokens_are_made_and_revoked() {
    for mut place in Place::both("") {
        let valid = async |place: &Place, token: &str| {
            let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
            place.server.request(Method::GET, &path, None).await.1["valid"] == true
        };
        let printed = place.give(&[&["create-token", "once", "--uses", "1", "--days", "7"], &["create-token"]]);
        assert_eq!(printed[0], "once\n");
        let random = printed[1].trim().to_owned();
        assert!(random.len() > 20 && valid(&place, &random).await && valid(&place, "once").await);
        let body = json!({ "username": "carol", "password": "a very good one" });
        let path = "/_matrix/client/v3/register";
        let (_, asked) = place.server.request(Method::POST, path, Some(body.clone())).await;
        let mut body = body;
        body["auth"] = json!({ "type": "m.login.registration_token", "token": "once", "session": asked["session"] });
        let (status, _) = place.server.request(Method::POST, path, Some(body)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!valid(&place, "once").await, "used up");
        let listed = place.give(&[&["list-tokens"], &["revoke-token", &random]]).remove(0);
        let mut lines: Vec<_> = listed.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
        lines.retain(|fields| fields[0] == "once");
        assert_eq!(lines[0][1], "1 of 1");
        assert_eq!(lines[0][2].len(), "2000-01-01".len());
        assert!(!valid(&place, &random).await);
    }
    // Where the server asks nobody for a token, whoever makes one is told.
    let mut server = Server::start();
    server.stop();
    let mut command = server.command();
    command.env("CONDUIT_ALLOW_REGISTRATION", "false").args(["create-token", "t"]);
    let output = command.output().expect("run");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("t\n") && text.contains("allow_registration"), "{text}");
}

#[tokio::test]
async fn files_are_quarantined_and_rooms_listed() {
    for mut place in Place::both("") {
        let (file, room, token) = {
            let alice = place.server.register("alice").await;
            let file = upload(&place.server, &alice, "", "text/plain", b"evil").await;
            let name = "Reef\u{1b}[2J\nof\tseahorses";
            let room = alice.create_room(json!({ "name": name, "visibility": "public", "room_version": "11" })).await;
            let bob = place.server.register("bob").await;
            alice.post(&format!("/v3/rooms/{}/invite", encode(&room)), json!({ "user_id": bob.id })).await;
            bob.join(&room).await;
            (file, room, alice.token.clone())
        };
        let uri = format!("mxc://{file}");
        let download = async |place: &Place| {
            let alice = place.server.user("@alice:localhost", "FIRST", &token);
            get(&place.server, &alice, &format!("/_matrix/client/v1/media/download/{file}"), &[]).await.status()
        };
        assert_eq!(download(&place).await, StatusCode::OK);
        place.give(&[&["quarantine-file", &uri]]);
        assert_eq!(download(&place).await, StatusCode::NOT_FOUND);
        let listed = place.give(&[&["release-file", &uri], &["list-rooms"]]).remove(1);
        assert_eq!(download(&place).await, StatusCode::OK);
        assert_eq!(listed, format!("{room}\t2\t11\tpublished\tReef\u{FFFD}[2J\u{FFFD}of\u{FFFD}seahorses\n"));
    }
}

#[tokio::test]
async fn what_is_refused_says_why() {
    for mut place in Place::both("") {
        place.server.register("bob").await;
        if !place.beside {
            place.server.stop();
        }
        let refused = [
            (&["lock-user", "nobody"][..], "@nobody:localhost: there is no such user"),
            (&["lock-user", "@bob:example.org"], "@bob:example.org can't be a user of localhost"),
            (&["quarantine-file", "mxc://localhost/none"], "there is no such file"),
            (&["quarantine-file", "https://localhost/none"], "no URI of a file"),
            (&["revoke-token", "none"], "there is no such registration token"),
            (&["create-token", "no spaces"], "a registration token has 1 to 64"),
            (&["reset-password", "bob"], "the password must have at least"),
            (&["create-user", "bob"], "the user name is taken"),
        ];
        for (command, why) in refused {
            let input =
                if command.contains(&"bob") && command[0] == "create-user" { "long enough\n" } else { "short\n" };
            let error = run(&place.server, input, command).expect_err("refused");
            assert!(error.starts_with("haima: ") && error.contains(why), "{command:?}: {error}");
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn commands_go_to_the_running_server_alone() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    let mut server = Server::start_with("log = \"info\"");
    server.register("bob").await;
    let socket = server.database_path().join("admin.sock");
    let there = std::fs::metadata(&socket).expect("a socket");
    assert!(there.file_type().is_socket());
    assert_eq!(there.permissions().mode() & 0o777, 0o600);
    run(&server, "", &["lock-user", "bob"]).expect("done");
    server.wait_for_log("on the command line: Locked @bob:localhost.", 1);
    // Whatever comes in, the server goes on.
    for garbage in [&b"\n"[..], b"{}\n", b"{\"command\":\"reboot\",\"password\":null}\n", &[b'x'; 100_000]] {
        use std::io::Read;
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("connected");
        // It may have read enough before all is sent.
        let _ = stream.write_all(garbage);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(!answer.contains("done"), "{answer}");
    }
    run(&server, "", &["unlock-user", "bob"]).expect("done");

    // A socket that a killed server left is in nobody's way.
    server.kill();
    assert!(socket.exists());
    run(&server, "", &["lock-user", "bob"]).expect("done without a server");
    server.restart();
    run(&server, "", &["unlock-user", "bob"]).expect("done by the server");
    // A server that nobody can reach has its database for itself all the same.
    std::fs::remove_file(&socket).expect("removed");
    let error = run(&server, "", &["lock-user", "bob"]).expect_err("the database is in use");
    assert!(error.contains("no running server answers"), "{error}");
    server.stop();
    assert!(!socket.exists());
}

#[cfg(unix)]
#[test]
fn who_goes_away_in_the_middle_of_an_answer_keeps_nobody_waiting() {
    use std::{io::Read, os::unix::net::UnixStream};

    let server = Server::start();
    let ask = |command: serde_json::Value| {
        let mut stream = UnixStream::connect(server.database_path().join("admin.sock")).expect("connected");
        stream.set_read_timeout(Some(SERVER_PATIENCE)).expect("set");
        let request = json!({ "command": command, "password": null }).to_string() + "\n";
        stream.write_all(request.as_bytes()).expect("sent");
        stream
    };
    let answer = |mut stream: UnixStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer in time");
        answer
    };
    // More lines than wait for a reader.
    const TOKENS: usize = 300;
    for number in 0..TOKENS {
        let made =
            answer(ask(json!({ "create-token": { "token": format!("t{number}"), "uses": null, "days": null } })));
        assert!(made.contains("done"), "{made}");
    }
    for _ in 0..20 {
        drop(ask(json!("list-tokens")));
    }
    assert_eq!(answer(ask(json!("list-tokens"))).lines().count(), TOKENS + 1);
}

#[test]
fn a_command_without_a_database_makes_none() {
    let mut server = Server::start();
    server.stop();
    std::fs::remove_dir_all(server.database_path()).expect("removed");
    let error = run(&server, "", &["list-users"]).expect_err("no database");
    assert!(error.contains("there is no database"), "{error}");
    assert!(!server.database_path().exists());
}
