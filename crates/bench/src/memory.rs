//! Memory of each process, idle and with 1,000 local endpoints: what is resident, what of that is the process's own
//! (not pages of the program's file, which all processes of ours share), and its fair share of all.

use std::time::Duration;

use calico_lab::{Host, Lab, LabOptions, wait_until};
use miette::{IntoDiagnostic, Result, miette};

use crate::{felix, report::Report};

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for size in [0, 1000] {
        let lab = Lab::up(&LabOptions { docker: false, ..LabOptions::hosts(1) }).into_diagnostic()?;
        let host = lab.host(1);
        let _service = host.spawn("exec calico-node run");
        wait_until(Duration::from_secs(60), "calico-node to be ready", || host.run("calico-node health").success())
            .into_diagnostic()?;
        if size > 0 {
            let endpoints = lab.etcd().endpoints();
            felix::inside(host, || felix::fill_endpoints(&endpoints, size))?;
            let wanted = format!("{size} local endpoints in force");
            wait_until(Duration::from_secs(60), "felix to be in sync", || {
                host.run("calico-node health").stdout.contains(&wanted)
            })
            .into_diagnostic()?;
        }
        let load = if size == 0 { "idle".to_owned() } else { size.to_string() };
        for (name, pattern) in [
            ("felix", "-x calico-felix"),
            ("confd", "-f 'calico-node confd'"),
            ("bird", "-x bird"),
            ("calico-node", "-f 'calico-node run'"),
        ] {
            for (suffix, file, field, detail) in MEASURES {
                let kilobytes = field_of(host, pattern, file, field)?;
                report.add(format!("memory/{name}/{load}{suffix}"), kilobytes / 1024.0, "MB", 1, detail);
            }
        }
    }
    Ok(())
}

/// What is measured: the name's end, where the kernel says it (proc(5)), and what it is.
pub(crate) const MEASURES: [(&str, &str, &str, &str); 3] = [
    ("", "status", "VmRSS", "resident (VmRSS)"),
    ("/own", "status", "RssAnon", "of it heap and stack, what no file backs (RssAnon)"),
    ("/share", "smaps_rollup", "Pss", "each page divided by the processes that have it (Pss)"),
];

/// A number of kilobytes from a file in `/proc`.
pub(crate) fn field_of(host: &Host, pattern: &str, file: &str, field: &str) -> Result<f64> {
    let shown = host.run(&format!("grep ^{field}: /proc/$(pgrep -o {pattern})/{file}"));
    let number = shown.stdout.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    number.ok_or_else(|| miette!("no {field} of {pattern}: {}", shown.text()))
}
