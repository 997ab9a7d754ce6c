//! A server that is started with few file descriptors.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::Server;

/// More than the soft limit lets in.
const CONNECTIONS: usize = 120;

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised_and_a_low_hard_one_is_told() {
    let server = Server::start_in(Some("ulimit -Sn 64; ulimit -Hn 600"), "");
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = TcpStream::connect(server.address()).await.expect("connected");
        let request = b"GET /_matrix/client/versions HTTP/1.1\r\nhost: localhost\r\n\r\n";
        connection.write_all(request).await.expect("written");
        let mut status = [0; 12];
        connection.read_exact(&mut status).await.expect("answered");
        assert_eq!(&status, b"HTTP/1.1 200");
        open.push(connection);
    }
    let log = server.log();
    let told = "the system allows 600 file descriptors: 300 connections at once";
    assert!(log.iter().any(|line| line.contains(told)), "{log:?}");
}
