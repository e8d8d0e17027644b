//! The embedded datastore beside a real etcd: on the same disk, each in a process of its own, with each write synced
//! before it is answered, asked by the same client; ours by its Unix socket, as all processes of a host do it, etcd on
//! the loopback address. And the whole service with the embedded datastore beside the whole service with etcd, since what
//! it costs a host to keep the datastore is the difference.

use std::time::{Duration, Instant};

use calico_lab::{Host, Lab, LabOptions, Running, wait_until};
use calico_store::Store;
use miette::{IntoDiagnostic, Result, miette};

use crate::{felix, memory, report::Report, rig};

/// Writes of one client, one after another.
const WRITES: usize = 300;
/// Clients at once, and what each writes.
const CLIENTS: usize = 16;
const WRITES_EACH: usize = 100;
/// Keys of the larger datastore.
const KEYS: usize = 10_000;
/// Clients that fill it.
const FILLERS: usize = 50;
/// About as long as an endpoint is in JSON.
const VALUE: usize = 500;
/// A folder of a lab host that lies on the machine's disk and not in memory, as most of a host does.
const FOLDER: &str = "/var/log/bench-datastore";
const LIMIT: Duration = Duration::from_secs(60);

/// One of the two, as a process.
struct Kind {
    name: &'static str,
    command: &'static str,
    /// How pgrep finds the process.
    pattern: &'static str,
    endpoints: fn(&Host) -> String,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "etcd",
        command: "exec etcd --name bench --data-dir /var/log/bench-datastore/etcd --logger zap --log-outputs stderr \
                  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
                  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
                  --initial-cluster bench=http://127.0.0.1:2380",
        pattern: "-x etcd",
        endpoints: |_| "http://127.0.0.1:2379".to_owned(),
    },
    Kind {
        name: "embedded",
        command: "exec calico-node datastore --name host1 --dir /var/log/bench-datastore/embedded \
                  --socket /run/bench.sock --admin-socket /run/bench-admin.sock",
        pattern: "-f 'calico-node datastore'",
        endpoints: |host| format!("unix://{}", host.path("/run/bench.sock").display()),
    },
];

/// What is compared.
struct Numbers {
    create: f64,
    swap: f64,
    watch: f64,
    rate: f64,
    start: f64,
    resident: f64,
}

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let mut of_etcd: Option<Numbers> = None;
    for kind in &KINDS {
        let lab = rig::bare_lab(1)?;
        let numbers = measure_one(report, lab.host(1), kind)?;
        if let Some(etcd) = &of_etcd {
            for (name, ours, theirs) in [
                ("create", numbers.create, etcd.create),
                ("compare_and_swap", numbers.swap, etcd.swap),
                ("watch", numbers.watch, etcd.watch),
                ("many", etcd.rate, numbers.rate),
                ("start", numbers.start, etcd.start),
                ("memory", numbers.resident, etcd.resident),
            ] {
                report.add(
                    format!("datastore/ratio/{name}"),
                    ours / theirs,
                    "×",
                    1,
                    "embedded to etcd; less is better",
                );
            }
        }
        of_etcd.get_or_insert(numbers);
    }
    above_idle_agent(report)
}

/// Where the service keeps it, without the link from `/var/run`, which leads out of the host when it is followed from here.
const SOCKET: &str = "/run/calico/datastore.sock";
/// All processes of the service.
const SERVICE: &str = "pgrep -x 'calico-felix|bird'; pgrep -f 'calico-node (run|confd|libnetwork|datastore)'";
/// Looks at the memory of a service, of which the middle one counts, and the pause between two.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// What the embedded datastore adds to the memory of the service, in megabytes: as each page's fair share, since its
/// process runs the same program as others of the service, and as what is its own.
fn above_idle_agent(report: &mut Report) -> Result<()> {
    let options = LabOptions { docker: false, ..LabOptions::hosts(1) };
    let idle = {
        let lab = Lab::up(&options).into_diagnostic()?;
        let _service = start_service(lab.host(1))?;
        service_memory(lab.host(1))?
    };
    let lab = Lab::up(&LabOptions { etcd: None, ..options }).into_diagnostic()?;
    let host = lab.host(1);
    let endpoints = format!("unix://{}", host.path(SOCKET).display());
    let mut service = start_service(host)?;
    let mut written = 0;
    for (name, keys) in [("small", 0), ("1k", 1000), ("10k", KEYS)] {
        let missing = keys - written;
        if missing > 0 {
            let prefix = format!("/fill/{name}");
            felix::inside(host, || write_at_once(&endpoints, &prefix, FILLERS, missing / FILLERS))?;
            // As above: what only the filling took does not count.
            host.ok("kill -TERM $(pgrep -o -f 'calico-node run')");
            service.wait(LIMIT).into_diagnostic()?;
            service = start_service(host)?;
        }
        written = keys;
        let now = service_memory(host)?;
        for (index, (suffix, _, _, detail)) in memory::MEASURES.iter().enumerate() {
            let name = format!("datastore/embedded/above_idle_agent/{name}{suffix}");
            let detail = format!("the service with it minus the service with etcd, {keys} keys: {detail}");
            report.add(name, now[index] - idle[index], "MB", LOOKS, detail);
        }
    }
    host.ok("kill -TERM $(pgrep -o -f 'calico-node run')");
    service.wait(LIMIT).into_diagnostic().map(drop)
}

fn start_service(host: &Host) -> Result<Running> {
    let service = host.spawn("exec calico-node run");
    wait_until(LIMIT, "calico-node to be ready", || host.run("calico-node health").success()).into_diagnostic()?;
    Ok(service)
}

/// The memory of all processes of the service, in megabytes: each of [`memory::MEASURES`], the middle one of some looks.
fn service_memory(host: &Host) -> Result<Vec<f64>> {
    let mut looks: Vec<Vec<f64>> = vec![Vec::new(); memory::MEASURES.len()];
    for _ in 0..LOOKS {
        std::thread::sleep(PAUSE);
        for (look, (_, file, field, _)) in looks.iter_mut().zip(memory::MEASURES) {
            let shown = host.ok(&format!("for pid in $({SERVICE}); do grep ^{field}: /proc/$pid/{file}; done"));
            let numbers = shown.lines().map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            let all: Option<f64> = numbers.sum();
            look.push(all.ok_or_else(|| miette!("no {field} of the service: {shown}"))? / 1024.0);
        }
    }
    looks.iter_mut().for_each(|look| look.sort_by(f64::total_cmp));
    Ok(looks.iter().map(|look| look[LOOKS / 2]).collect())
}

fn measure_one(report: &mut Report, host: &Host, kind: &Kind) -> Result<Numbers> {
    let name = |what: &str| format!("datastore/{}/{what}", kind.name);
    host.ok(&format!("mkdir -p {FOLDER}"));
    let (process, _) = start(host, kind)?;
    resident(report, host, kind, &name("memory/empty"))?;
    let endpoints = (kind.endpoints)(host);
    let (creates, swaps, events) = felix::inside(host, || one_client(&endpoints))?;
    let create = report.add_times(&name("create"), creates, "a key is made, by one client");
    let swap = report.add_times(&name("compare_and_swap"), swaps, "a key is written if it is as it was read");
    let watch = report.add_times(&name("watch"), events, "from the start of a write to its event at a watch");
    let elapsed = felix::inside(host, || write_at_once(&endpoints, "/many", CLIENTS, WRITES_EACH))?;
    let rate = (CLIENTS * WRITES_EACH) as f64 / elapsed.as_secs_f64();
    report.add(name("many/per_second"), rate, "/s", CLIENTS * WRITES_EACH, format!("{CLIENTS} clients at once"));
    felix::inside(host, || write_at_once(&endpoints, "/fill", FILLERS, KEYS / FILLERS))?;
    // Memory that the filling took for a while and that nothing needs does not count: it is a process of its own again.
    stop(host, kind, process)?;
    let (process, started) = start(host, kind)?;
    report.add(name("start/10k"), started.as_secs_f64() * 1e3, "ms", 1, "until the first answer, with 10,000 keys");
    let resident = resident(report, host, kind, &name("memory/10k"))?;
    stop(host, kind, process)?;
    Ok(Numbers { create, swap, watch, rate, start: started.as_secs_f64(), resident })
}

/// Starts one and waits for its first answer.
fn start(host: &Host, kind: &Kind) -> Result<(Running, Duration)> {
    let begin = Instant::now();
    let process = host.spawn(kind.command);
    let endpoints = (kind.endpoints)(host);
    let answers = || async {
        loop {
            if felix::store(&endpoints)?.kv().get("/").await.is_ok() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > LIMIT {
                return Err(miette!("{} does not answer: {}", kind.name, process.stderr()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let elapsed = felix::inside(host, answers)?;
    Ok((process, elapsed))
}

fn stop(host: &Host, kind: &Kind, process: Running) -> Result<()> {
    host.ok(&format!("kill -TERM $(pgrep -o {})", kind.pattern));
    process.wait(LIMIT).into_diagnostic().map(drop)
}

/// Notes the memory of a process. Returns what is resident, in megabytes.
fn resident(report: &mut Report, host: &Host, kind: &Kind, name: &str) -> Result<f64> {
    let mut resident = 0.0;
    for (suffix, file, field, detail) in memory::MEASURES {
        let megabytes = memory::field_of(host, kind.pattern, file, field)? / 1024.0;
        report.add(format!("{name}{suffix}"), megabytes, "MB", 1, detail);
        if suffix.is_empty() {
            resident = megabytes;
        }
    }
    Ok(resident)
}

/// Makes keys, and writes one again and again while it is watched. Returns the times of both, and those from the start of
/// each write to its event.
async fn one_client(endpoints: &str) -> Result<(Vec<Duration>, Vec<Duration>, Vec<Duration>)> {
    let store = felix::store(endpoints)?;
    let kv = store.kv();
    let mut revision = kv.create("/bench/watched", vec![b'x'; VALUE]).await.into_diagnostic()?;
    let mut watch = kv.watch("/bench/watched", revision).await.into_diagnostic()?;
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(async move {
        while let Ok(events) = watch.next().await {
            if told.send((Instant::now(), events.len())).is_err() {
                break;
            }
        }
    });
    let (mut creates, mut swaps, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WRITES {
        let start = Instant::now();
        kv.create(&format!("/bench/created/{number}"), vec![b'x'; VALUE]).await.into_diagnostic()?;
        creates.push(start.elapsed());
        let start = Instant::now();
        revision = kv.update("/bench/watched", vec![b'y'; VALUE], revision).await.into_diagnostic()?;
        swaps.push(start.elapsed());
        let event = tokio::time::timeout(LIMIT, events.recv()).await.into_diagnostic()?;
        let (seen, count) = event.ok_or_else(|| miette!("the watch ended"))?;
        if count != 1 {
            return Err(miette!("{count} events for one write"));
        }
        latencies.push(seen.saturating_duration_since(start));
    }
    watching.abort();
    Ok((creates, swaps, latencies))
}

/// Some clients create keys of their own at the same time.
async fn write_at_once(endpoints: &str, prefix: &str, clients: usize, each: usize) -> Result<Duration> {
    let connect = |client: usize| async move {
        let store = felix::store(endpoints)?;
        store.kv().get("/").await.into_diagnostic()?;
        Ok::<(usize, Store), miette::Report>((client, store))
    };
    let mut stores = Vec::new();
    for client in 0..clients {
        stores.push(connect(client).await?);
    }
    let start = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for (client, store) in stores {
        let prefix = prefix.to_owned();
        writers.spawn(async move {
            for number in 0..each {
                let key = format!("{prefix}/{client}/{number}");
                store.kv().create(&key, vec![b'x'; VALUE]).await?;
            }
            Ok::<(), calico_store::Error>(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written.into_diagnostic()?.into_diagnostic()?;
    }
    Ok(start.elapsed())
}
