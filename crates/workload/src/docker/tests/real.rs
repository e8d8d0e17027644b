//! Against Docker as Debian ships it (20.10, API 1.41).

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::daemon::Daemon;
use crate::{
    NetnsRef, attach, detach,
    docker::{Docker, DockerError, Mount, RestartPolicy, ServiceContainer},
    tests::support::{Host, attachment, block_on},
};

fn service(name: &str, command: &[&str]) -> ServiceContainer {
    ServiceContainer {
        name: name.into(),
        image: "busybox".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..ServiceContainer::default()
    }
}

#[tokio::test]
async fn a_service_from_its_start_to_its_removal() {
    let daemon = Daemon::new();
    let docker = Docker::connect_to(&daemon.host()).await.unwrap();
    let shared = daemon.folder().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let mount = |target: &str, read_only| {
        let source = shared.display().to_string();
        Mount { source, target: target.into(), read_only }
    };
    let script = "echo $GREETING; echo bad >&2; echo x > /rw/file; echo x > /ro/file || echo read-only;
                  trap 'exit 7' TERM; busybox sleep 1000 & wait";
    let wanted = ServiceContainer {
        env: vec![("GREETING".into(), "hello world".into())],
        mounts: vec![mount("/rw", false), mount("/ro", true)],
        host_network: true,
        restart: RestartPolicy::UnlessStopped,
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..service("svc", &["sh", "-c", script])
    };
    assert!(docker.image_exists("busybox").await.unwrap() && !docker.image_exists("busybox:other").await.unwrap());
    let id = docker.run_service(&wanted).await.unwrap();

    for name in ["svc", &id, &id[..8]] {
        let found = docker.inspect(name).await.unwrap();
        assert_eq!((found.id.as_str(), found.name.as_str(), found.network_mode.as_str()), (id.as_str(), "svc", "host"));
        assert!(found.running && found.pid > 0 && found.started_at.is_some());
        assert_eq!((found.image.as_str(), found.labels["a"].as_str()), ("busybox", "b"));
    }
    let listed = docker.list().await.unwrap();
    let [one] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((one.id.as_str(), one.name.as_str(), one.image.as_str()), (id.as_str(), "svc", "busybox"));
    assert_eq!((one.state.as_str(), one.network_mode.as_str()), ("running", "host"));
    assert!(one.status.starts_with("Up") && one.created > 0, "{one:?}");
    let lines: Vec<_> = docker.follow_logs("svc", None).take(4).try_collect().await.unwrap();
    let said = |stderr: bool| lines.iter().filter(move |line| line.stderr == stderr).map(|line| line.text.as_str());
    assert_eq!(said(false).collect::<Vec<_>>(), ["hello world", "read-only"]);
    assert_eq!(said(true).next(), Some("bad"));
    assert!(shared.join("file").exists());

    let again = docker.run_service(&wanted).await.expect_err("the name is taken");
    assert!(matches!(&again, DockerError::NameTaken { name } if name == "svc"), "{again}");
    assert!(docker.remove("svc", false).await.is_err(), "it runs");

    let waiting = docker.wait("svc");
    let (code, stopped) = tokio::join!(waiting, docker.stop("svc", Duration::from_secs(20)));
    assert_eq!((code.unwrap(), stopped.unwrap()), (7, true));
    assert!(!docker.stop("svc", Duration::ZERO).await.unwrap(), "it is stopped already");
    let status = docker.container_status("svc").await.unwrap().unwrap();
    assert_eq!((status.state.as_str(), status.running, status.exit_code), ("exited", false, 7));
    assert_eq!(docker.inspect("svc").await.unwrap().pid, 0);
    // The output of an ended container ends.
    assert_eq!(docker.follow_logs("svc", None).count().await, lines.len());

    daemon.docker("docker create --name other busybox");
    let taken = docker.rename("svc", "other").await.expect_err("the name is taken");
    assert!(matches!(&taken, DockerError::NameTaken { name } if name == "other"), "{taken}");
    docker.rename("svc", "old").await.unwrap();
    assert!(matches!(docker.start("svc").await, Err(DockerError::NoSuchContainer { .. })));
    assert!(matches!(docker.rename("svc", "x").await, Err(DockerError::NoSuchContainer { .. })));
    docker.start("old").await.unwrap();
    docker.start("old").await.expect("it runs already");
    assert!(docker.inspect("old").await.unwrap().running);
    assert!(docker.remove("old", true).await.unwrap());

    assert!(docker.remove("other", false).await.unwrap());
    assert!(!docker.remove("svc", true).await.unwrap());
    assert_eq!(docker.container_status("svc").await.unwrap(), None);
}

#[tokio::test]
async fn what_cannot_start_leaves_no_container() {
    let daemon = Daemon::new();
    let docker = Docker::connect_to(&daemon.host()).await.unwrap();
    let error = docker.run_service(&service("svc", &["/no/such/program"])).await.expect_err("it cannot start");
    assert!(error.to_string().contains("/no/such/program"), "{error}");
    let missing = ServiceContainer { image: "calico/none".into(), ..service("svc", &[]) };
    let error = docker.run_service(&missing).await.expect_err("there is no image");
    assert!(matches!(&error, DockerError::NoSuchImage { image } if image == "calico/none"), "{error}");
    assert_eq!(docker.container_status("svc").await.unwrap(), None);
    assert!(matches!(docker.wait("svc").await, Err(DockerError::NoSuchContainer { .. })));
    let mut logs = docker.follow_logs("svc", None);
    assert!(matches!(logs.next().await, Some(Err(DockerError::NoSuchContainer { .. }))));
    assert!(logs.next().await.is_none());
}

#[tokio::test]
async fn images_are_loaded_and_not_pulled_from_nowhere() {
    let daemon = Daemon::new();
    let docker = Docker::connect_to(&daemon.host()).await.unwrap();
    daemon.docker("docker tag busybox calico/node && docker save -o image.tar calico/node");
    daemon.docker("docker rmi calico/node");
    assert!(!docker.image_exists("calico/node").await.unwrap());
    let names = docker.load(&daemon.folder().join("image.tar")).await.unwrap();
    assert_eq!(names, ["calico/node:latest"]);
    assert!(docker.image_exists("calico/node").await.unwrap());

    for (file, content) in [("empty.tar", &b""[..]), ("text.tar", b"not an archive")] {
        std::fs::write(daemon.folder().join(file), content).unwrap();
        let error = docker.load(&daemon.folder().join(file)).await.expect_err(file);
        assert!(matches!(error, DockerError::Archive { .. }), "{error}");
    }
    let error = docker.load(&daemon.folder().join("missing.tar")).await.expect_err("no file");
    assert!(matches!(error, DockerError::Archive { .. }), "{error}");

    // The daemon's namespace has no network at all, so nothing is reachable.
    let error = docker.pull("127.0.0.1:1/calico/none", |_| {}).await.expect_err("there is no registry");
    assert!(matches!(&error, DockerError::Pull { image, .. } if image.contains("none")), "{error}");
}

#[test]
fn a_container_without_network_is_attached() {
    let daemon = Daemon::new();
    let host = Host::new();
    daemon.docker("docker run -d --name c1 --net=none busybox sh -c 'busybox sleep 1000'");
    let container = block_on(async { Docker::connect_to(&daemon.host()).await?.inspect("c1").await }).unwrap();
    assert_eq!(container.network_mode, "none");
    let wanted = attachment("cali1", "eth1", &["192.168.1.7", "fd80::7"]);
    block_on(attach(&NetnsRef::Pid(container.pid), &wanted)).unwrap();
    host.route(&wanted);
    // From the host's side: the container has no programs to ask with.
    for address in ["192.168.1.7", "fd80::7"] {
        assert!(host.namespace.pings(address), "{}", host.namespace.state());
    }
    assert!(block_on(detach("cali1")).unwrap());
}
