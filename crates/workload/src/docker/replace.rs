//! What replacing a service's container needs beside making and removing one: putting it aside and bringing it back.

use bollard::query_parameters::RenameContainerOptionsBuilder;

use super::{CALL_LIMIT, Docker, DockerError, about_container, container_name};

impl Docker {
    /// Starts a container that exists. One that runs already is left alone.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`], and Docker's words if it does not start.
    pub async fn start(&self, name: &str) -> Result<(), DockerError> {
        container_name(name)?;
        let start = self.api.start_container(name, None);
        match self.call(&format!("starting container {name}"), CALL_LIMIT, start).await {
            // "Not modified": it runs.
            Err(DockerError::Api { status: 304, .. }) => Ok(()),
            other => other.map_err(|error| about_container(name, error)),
        }
    }

    /// Gives a container another name. Running or not, it goes on as it is.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`], [`DockerError::NameTaken`].
    pub async fn rename(&self, name: &str, to: &str) -> Result<(), DockerError> {
        container_name(name)?;
        container_name(to)?;
        let options = RenameContainerOptionsBuilder::new().name(to).build();
        let rename = self.api.rename_container(name, options);
        let renamed = self.call(&format!("renaming container {name} to {to}"), CALL_LIMIT, rename).await;
        renamed.map_err(|error| match error {
            DockerError::Api { status: 409, .. } => DockerError::NameTaken { name: to.to_owned() },
            error => about_container(name, error),
        })
    }
}
