//! A network and IPAM driver that does nothing: what Docker itself takes for a network of a remote driver.
//!
//! Docker asks it the same questions as ours, over a Unix socket in the same folder, and moves an interface that was
//! made beforehand into the container. What a run with it costs over `--net=none` is therefore Docker's own part, and
//! what one with our driver costs more is ours.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// The driver's name.
pub(crate) const FLOOR: &str = "floor";

/// The interface for the `number`th endpoint: the host's end, and the one for the container.
pub(crate) fn pair(number: u32) -> [String; 2] {
    [format!("floor{number}"), format!("floorp{number}")]
}

/// Serves the driver in a folder of plugins, as long as the process runs. Joins take the pairs from number 1 on, one
/// after another; each must be there before.
pub(crate) fn serve(plugins: &Path) -> io::Result<()> {
    std::fs::create_dir_all(plugins)?;
    let listener = UnixListener::bind(plugins.join(format!("{FLOOR}.sock")))?;
    let count = Arc::new(Count::default());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            // A client that hangs up ends its thread; Docker opens another connection.
            thread::spawn(move || converse(&stream, &count));
        }
    });
    Ok(())
}

/// Addresses and interfaces given so far.
#[derive(Default)]
struct Count {
    addresses: AtomicU32,
    joins: AtomicU32,
}

/// Answers requests on a connection until it ends.
fn converse(stream: &UnixStream, count: &Count) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let method = line.split_whitespace().nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim();
            if header.is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        reader.read_exact(&mut vec![0; length])?;
        let body = answer(&method, count);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.plugins.v1.1+json\r\nContent-Length:";
        (&mut &*stream).write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())?;
    }
}

fn answer(method: &str, count: &Count) -> String {
    match method {
        "Plugin.Activate" => r#"{"Implements":["NetworkDriver","IpamDriver"]}"#.to_owned(),
        "NetworkDriver.GetCapabilities" => r#"{"Scope":"local","ConnectivityScope":"local"}"#.to_owned(),
        "NetworkDriver.CreateEndpoint" => r#"{"Interface":{}}"#.to_owned(),
        "NetworkDriver.Join" => {
            let [_, inner] = pair(count.joins.fetch_add(1, Ordering::Relaxed) + 1);
            format!(
                r#"{{"InterfaceName":{{"SrcName":"{inner}","DstPrefix":"eth"}},"Gateway":"169.254.1.1",
                "StaticRoutes":[{{"Destination":"169.254.1.1/32","RouteType":1}}],"DisableGatewayService":true}}"#
            )
        }
        "IpamDriver.GetDefaultAddressSpaces" => {
            r#"{"LocalDefaultAddressSpace":"floor","GlobalDefaultAddressSpace":"floor"}"#.to_owned()
        }
        "IpamDriver.RequestPool" => {
            r#"{"PoolID":"floor","Pool":"0.0.0.0/0","Data":{"com.docker.network.gateway":"169.254.1.1/32"}}"#.to_owned()
        }
        "IpamDriver.RequestAddress" => {
            let number = count.addresses.fetch_add(1, Ordering::Relaxed) + 1;
            let [_, _, third, fourth] = number.to_be_bytes();
            format!(r#"{{"Address":"10.99.{third}.{fourth}/32","Data":{{}}}}"#)
        }
        _ => "{}".to_owned(),
    }
}
