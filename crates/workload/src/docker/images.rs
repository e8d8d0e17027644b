//! Images: is there one, pull one, load one.

use std::{io, path::Path, time::Duration};

use bollard::{
    errors::Error as ApiError,
    models::CreateImageInfo,
    query_parameters::{CreateImageOptionsBuilder, ImportImageOptionsBuilder},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tokio::{fs::File, io::AsyncReadExt};

use super::{CALL_LIMIT, Docker, DockerError, PullProgress};

/// How long a pull may be silent. Docker reports several times a second while data flows.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// How long loading an archive may take: it is read, unpacked and written once.
const LOAD_LIMIT: Duration = Duration::from_secs(600);

impl Docker {
    /// True if the daemon has the image.
    ///
    /// # Errors
    /// What every call can return.
    pub async fn image_exists(&self, image: &str) -> Result<bool, DockerError> {
        image_name(image)?;
        let found = self.call(&format!("looking for image {image}"), CALL_LIMIT, self.api.inspect_image(image)).await;
        match found {
            Ok(_) => Ok(true),
            Err(DockerError::Api { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image from its registry; without tag or digest, `latest`.
    ///
    /// # Errors
    /// [`DockerError::Pull`] with Docker's or the registry's words, [`DockerError::Timeout`] after two minutes
    /// without a word.
    pub async fn pull(&self, image: &str, mut progress: impl FnMut(PullProgress)) -> Result<(), DockerError> {
        image_name(image)?;
        // Without a tag Docker would pull every tag there is.
        let wanted = if is_exact(image) { image.to_owned() } else { format!("{image}:latest") };
        let options = CreateImageOptionsBuilder::new().from_image(&wanted).build();
        let api = self.api.clone().with_timeout(SILENCE_LIMIT);
        let mut reports = api.create_image(Some(options), None, None);
        let operation = format!("pulling image {image}");
        loop {
            let next = async { reports.next().await.transpose() };
            match self.call(&operation, SILENCE_LIMIT, next).await {
                Ok(Some(report)) => progress(told(report)),
                Ok(None) => return Ok(()),
                Err(DockerError::Api { message, .. }) => {
                    return Err(DockerError::Pull { image: image.to_owned(), cause: message });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Loads the images of an archive written by `docker save`; returns their names, or ids where they have none.
    ///
    /// # Errors
    /// [`DockerError::Archive`], [`DockerError::Timeout`] after ten minutes.
    pub async fn load(&self, archive: &Path) -> Result<Vec<String>, DockerError> {
        let refuse = |cause: String| DockerError::Archive { archive: archive.display().to_string(), cause };
        let file = File::open(archive).await.map_err(|error| refuse(error.to_string()))?;
        let api = self.api.clone().with_timeout(LOAD_LIMIT);
        let reports = api.import_image_stream(ImportImageOptionsBuilder::new().build(), chunks(file), None);
        let reading = async {
            let mut names = Vec::new();
            let mut reports = std::pin::pin!(reports);
            while let Some(report) = reports.next().await {
                names.extend(report?.stream.as_deref().and_then(loaded));
            }
            Ok::<_, ApiError>(names)
        };
        match self.call(&format!("loading {}", archive.display()), LOAD_LIMIT, reading).await {
            Ok(names) if names.is_empty() => Err(refuse("there is no image in it".into())),
            Err(DockerError::Api { message, .. }) => Err(refuse(message)),
            other => other,
        }
    }
}

/// A file in pieces.
fn chunks(file: File) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
    const PIECE: usize = 256 * 1024;
    stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece).await?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), file)))
    })
}

/// The image that a line of Docker's tells of.
fn loaded(line: &str) -> Option<String> {
    let line = line.trim();
    let name = line.strip_prefix("Loaded image: ").or_else(|| line.strip_prefix("Loaded image ID: "))?;
    Some(name.trim().to_owned())
}

fn told(report: CreateImageInfo) -> PullProgress {
    let bytes = report.progress_detail.and_then(|detail| {
        let number = |count: Option<i64>| u64::try_from(count?).ok();
        Some((number(detail.current)?, number(detail.total)?))
    });
    PullProgress { layer: report.id, status: report.status.unwrap_or_default(), bytes }
}

/// True if an image's name says which of its versions is meant, by tag or digest.
fn is_exact(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.contains([':', '@'])
}

/// Refuses what cannot be an image's name, before it becomes part of a URL.
fn image_name(image: &str) -> Result<(), DockerError> {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-/:@".contains(&byte);
    let parts = || image.split('/').all(|part| part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()));
    if image.bytes().all(usual) && parts() {
        return Ok(());
    }
    Err(DockerError::NoSuchImage { image: image.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_has_a_tag_or_a_digest() {
        for (image, exact) in [
            ("calico/node", false),
            ("calico/node:v1", true),
            ("registry:5000/calico/node", false),
            ("registry:5000/calico/node:v1", true),
            ("node@sha256:00", true),
        ] {
            assert_eq!(is_exact(image), exact, "{image}");
        }
    }

    #[test]
    fn only_names_of_images_are_asked_for() {
        for good in ["ubuntu", "calico/node:latest", "r.example:5000/a_b/c-d@sha256:0f", "0f"] {
            assert!(image_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/../b", "a?b", "/a", "a//b", "a/", "ä", "a#b", "a%2fb"] {
            assert!(image_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn docker_says_what_it_loaded() {
        assert_eq!(loaded("Loaded image: calico/node:latest\n").as_deref(), Some("calico/node:latest"));
        assert_eq!(loaded("Loaded image ID: sha256:00\n").as_deref(), Some("sha256:00"));
        assert_eq!(loaded("something else"), None);
    }
}
