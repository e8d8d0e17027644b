//! From the words of `calicoctl node` to what they mean, with every fault told at once.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use calico_model::AsNumber;
use calico_startup::{Request, StartupError};

use crate::{
    args::{NODE_IMAGE, NodeStart},
    failure::{Failure, sentence},
};

/// What runs the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The unit of systemd where it is installed, else a Docker container.
    Auto,
    /// The unit of systemd, which the package brings.
    Systemd,
    /// A Docker container.
    Docker,
    /// Somebody else; calicoctl only prepares.
    None,
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// IPv4 address; `None` is detected.
    pub(crate) ip: Option<Ipv4Addr>,
    /// IPv6 address; `None` is none.
    pub(crate) ip6: Option<Ipv6Addr>,
    /// AS number; `None` is the cluster's.
    pub(crate) as_number: Option<AsNumber>,
    /// The node's name, if given.
    pub(crate) name: Option<String>,
    /// The image.
    pub(crate) image: String,
    /// What runs it.
    pub(crate) runtime: Runtime,
    /// Logs, on the host.
    pub(crate) log_dir: PathBuf,
    /// Leave it running and return.
    pub(crate) detach: bool,
    /// Never pull.
    pub(crate) no_pull: bool,
    /// Serve Docker's networks; `None` where Docker is.
    pub(crate) libnetwork: Option<bool>,
}

impl Settings {
    /// # Errors
    /// Every argument that is not what it should be.
    pub(crate) fn parse(args: &NodeStart) -> Result<Self, Failure> {
        let mut faults = Vec::new();
        let ip = optional(&args.ip, &mut faults, "Invalid IPv4 address specified with --ip argument");
        let ip6 = optional(&args.ip6, &mut faults, "Invalid IPv6 address specified with --ip6 argument");
        let as_number = optional(&args.as_number, &mut faults, "Invalid AS Number specified");
        let request = Request { ip, ip6, as_number, ..Request::default() };
        match request.check() {
            Ok(()) => {}
            Err(StartupError::Setting { setting, value, cause }) => {
                faults.push(format!("--{} {value} is not usable: {cause}.", setting.to_lowercase()));
            }
            Err(error) => faults.push(sentence(&error)),
        }
        let name = match args.name.trim() {
            "" => None,
            given => match calico_startup::node_name(Some(given)) {
                Ok(name) => Some(name),
                Err(error) => {
                    faults.push(format!("Invalid node name specified with --name: {error}."));
                    None
                }
            },
        };
        let detach = match args.detach.to_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                faults.push("Valid values for --detach are 'true' and 'false'.".to_owned());
                true
            }
        };
        let runtime = match args.runtime.as_str() {
            "auto" => Runtime::Auto,
            "systemd" => Runtime::Systemd,
            "docker" => Runtime::Docker,
            "none" => Runtime::None,
            other => {
                faults.push(format!("Runtime must be 'auto', 'systemd', 'docker' or 'none', not {other:?}."));
                Runtime::None
            }
        };
        let log_dir = PathBuf::from(&args.log_dir);
        if !log_dir.is_absolute() {
            faults.push(format!("--log-dir must be an absolute path, not {:?}.", args.log_dir));
        }
        if args.node_image.is_empty() || args.node_image.contains(char::is_whitespace) {
            faults.push(format!("--node-image is not the name of an image: {:?}.", args.node_image));
        }
        let libnetwork = match (args.libnetwork, args.no_libnetwork) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        };
        let (image, no_pull) = (args.node_image.clone(), args.no_pull);
        let settings = Self { ip, ip6, as_number, name, image, runtime, log_dir, detach, no_pull, libnetwork };
        if runtime == Runtime::Systemd && settings.means_container() {
            faults.push("--node-image, --no-pull and --detach=false are for --runtime=docker.".to_owned());
        }
        if !faults.is_empty() {
            return Err(Failure::all(faults).hint("see: calicoctl node --help"));
        }
        Ok(settings)
    }

    /// True if an option was given that says something of a container only.
    pub(super) fn means_container(&self) -> bool {
        self.image != NODE_IMAGE || self.no_pull || !self.detach
    }
}

/// The value, `None` for an empty word or a bad one.
fn optional<T: std::str::FromStr>(word: &str, faults: &mut Vec<String>, fault: &str) -> Option<T> {
    if word.is_empty() {
        return None;
    }
    let value = word.parse().ok();
    if value.is_none() {
        faults.push(format!("{fault}: {word:?}."));
    }
    value
}
