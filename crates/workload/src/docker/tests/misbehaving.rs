//! Daemons that are missing, silent, or answer with an error.

use std::{path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use crate::docker::{Docker, DockerError};

fn host(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Answers the question for the version, and every other request with `answer`.
fn serve(socket: &Path, answer: String) {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64 * 1024];
            let length = connection.read(&mut request).await.unwrap();
            let version = reply("200 OK", r#"{"ApiVersion":"1.41"}"#);
            let asks_version = String::from_utf8_lossy(&request[..length]).contains("/version");
            connection.write_all(if asks_version { &version } else { &answer }.as_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        }
    });
}

fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

async fn against(answer: String) -> (tempfile::TempDir, Docker) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    serve(&socket, answer);
    let docker = Docker::connect_to(&host(&socket)).await.unwrap();
    (folder, docker)
}

#[tokio::test]
async fn no_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let error = Docker::connect_to(&host(&socket)).await.expect_err("there is no socket");
    assert!(matches!(error, DockerError::NotRunning { .. }), "{error}");

    // A socket that a dead daemon left.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = Docker::connect_to(&host(&socket)).await.expect_err("nobody listens");
    assert!(matches!(error, DockerError::NotRunning { .. }), "{error}");
    assert!(error.is_not_running());

    let error = Docker::connect_to("tcp://127.0.0.1:1").await.expect_err("nobody listens");
    assert!(matches!(error, DockerError::NotRunning { .. }), "{error}");
}

#[tokio::test]
async fn a_host_that_cannot_be_used() {
    for host in ["ssh://somewhere", "/var/run/docker.sock", "https://somewhere:2376", "unix:/x"] {
        let error = Docker::connect_to(host).await.expect_err(host);
        assert!(matches!(&error, DockerError::Host { host: named, .. } if named == host), "{error}");
    }
}

/// Time is tokio's own here: it jumps to the limit when nothing else is left to happen.
#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_answer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let error = Docker::connect_to(&host(&socket)).await.expect_err("nobody answers");
    let DockerError::Timeout { limit, .. } = error else { panic!("{error}") };
    assert!(limit <= Duration::from_secs(10));
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_in_the_middle_of_an_answer_is_given_up() {
    let (_folder, docker) = against("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".into()).await;
    // The connection breaks off, or the limit strikes; either way there is an answer.
    let error = docker.inspect("c").await.expect_err("half an answer");
    assert!(matches!(error, DockerError::Transport { .. } | DockerError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn errors_are_told_apart() {
    let (_folder, docker) = against(reply("404 Not Found", r#"{"message":"No such container: c1"}"#)).await;
    let error = docker.inspect("c1").await.expect_err("it is not there");
    assert!(matches!(&error, DockerError::NoSuchContainer { name } if name == "c1"), "{error}");
    assert_eq!(error.to_string(), "container c1 was not found");
    assert_eq!(docker.container_status("c1").await.unwrap(), None);
    assert!(!docker.remove("c1", true).await.unwrap());
    assert!(!docker.stop("c1", Duration::ZERO).await.unwrap());
    assert!(!docker.image_exists("c1").await.unwrap());

    let ambiguous = r#"{"message":"Multiple IDs found with provided prefix: c1"}"#;
    let (_folder, docker) = against(reply("500 Internal Server Error", ambiguous)).await;
    let error = docker.inspect("c1").await.expect_err("it is several");
    assert!(matches!(error, DockerError::Ambiguous { .. }), "{error}");

    let full = reply("500 Internal Server Error", r#"{"message":"disk is full\n"}"#);
    let (_folder, docker) = against(full).await;
    let error = docker.inspect("c1").await.expect_err("the daemon says so");
    assert_eq!(error.to_string(), "inspecting container c1: Docker says: disk is full");
}

#[tokio::test]
async fn what_is_no_name_never_becomes_part_of_a_url() {
    let (_folder, docker) = against(reply("200 OK", "{}")).await;
    for name in ["", "../images/x", "a/b", "a?force=1", "a#b", "a b", "-a", "ä", "%2e"] {
        assert!(matches!(docker.inspect(name).await, Err(DockerError::NoSuchContainer { .. })), "{name:?}");
        assert!(matches!(docker.remove(name, true).await, Err(DockerError::NoSuchContainer { .. })), "{name:?}");
        assert!(matches!(docker.wait(name).await, Err(DockerError::NoSuchContainer { .. })), "{name:?}");
    }
}

#[test]
fn a_forbidden_socket_is_told_apart() {
    let docker = Docker {
        api: bollard::Docker::connect_with_http("tcp://127.0.0.1:1", 1, bollard::API_DEFAULT_VERSION).unwrap(),
        host: "unix:///s".into(),
    };
    let err = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let error = docker.error("asking", bollard::errors::Error::IOError { err });
    assert!(matches!(&error, DockerError::Permission { host } if host == "unix:///s"), "{error}");
}
