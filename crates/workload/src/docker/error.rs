//! What can go wrong with Docker.

use std::time::Duration;

/// A failed call to Docker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DockerError {
    /// No daemon listens.
    #[error("no Docker daemon answers at {host}: {cause}; is it running?")]
    NotRunning {
        /// Where.
        host: String,
        /// The system's words.
        cause: String,
    },
    /// The socket may not be used by this user.
    #[error("permission to use Docker at {host} is denied; run this as root or as a member of the group docker")]
    Permission {
        /// Where.
        host: String,
    },
    /// `DOCKER_HOST` cannot be used.
    #[error("DOCKER_HOST={host} cannot be used: {cause}")]
    Host {
        /// Its value.
        host: String,
        /// Why not.
        cause: String,
    },
    /// The daemon is there but does not answer.
    #[error("Docker did not answer within {} s: {operation}", limit.as_secs())]
    Timeout {
        /// What was asked.
        operation: String,
        /// How long was waited.
        limit: Duration,
    },
    /// No container of the name or id.
    #[error("container {name} was not found")]
    NoSuchContainer {
        /// As given.
        name: String,
    },
    /// Several containers' ids begin so.
    #[error("{name} is the beginning of several containers' ids; give more of it, or the name")]
    Ambiguous {
        /// As given.
        name: String,
    },
    /// The daemon does not have the image.
    #[error("there is no image {image}; pull it or load it first")]
    NoSuchImage {
        /// Its name.
        image: String,
    },
    /// A container of the name exists.
    #[error("a container {name} exists already; stop and remove it first")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The image could not be pulled.
    #[error("image {image} could not be pulled: {cause}")]
    Pull {
        /// Its name.
        image: String,
        /// Docker's or the registry's words.
        cause: String,
    },
    /// The archive cannot be loaded.
    #[error("{archive} could not be loaded: {cause}")]
    Archive {
        /// Its path.
        archive: String,
        /// Docker's or the system's words.
        cause: String,
    },
    /// Docker refused, in its own words.
    #[error("{operation}: Docker says: {message}")]
    Api {
        /// What was asked.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Docker's words.
        message: String,
    },
    /// The conversation broke.
    #[error("{operation}: {cause}")]
    Transport {
        /// What was asked.
        operation: String,
        /// What broke.
        cause: String,
    },
}

impl DockerError {
    /// The thing asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchContainer { .. } | Self::NoSuchImage { .. })
    }

    /// No daemon answers at all.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Timeout { .. })
    }
}
