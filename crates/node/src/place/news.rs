//! Hears when a file may say something else: the kernel's inotify on its folder.
//!
//! The folder is watched and not the file, because a record is replaced by renaming and need not be there yet. News are
//! never more than a hint to look, and come at the latest after [`FALLBACK`]: what is looked at has other sources too
//! (a password's file), and a watch may be refused. While the folder cannot be watched, because it is not there yet or
//! the system has no watches left, they come every [`WITHOUT_WATCH`].

use std::{
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::timeout,
};
use tracing::debug;

/// The longest time without news.
const FALLBACK: Duration = Duration::from_secs(15);
/// The same while the folder is not watched; to look costs next to nothing.
const WITHOUT_WATCH: Duration = Duration::from_secs(2);

/// Something has happened to the folder itself, or events were lost.
const ABOUT_ALL: ReadFlags = ReadFlags::IGNORED.union(ReadFlags::UNMOUNT).union(ReadFlags::MOVE_SELF);

/// News of one file.
pub(super) struct News {
    file: PathBuf,
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl News {
    /// Nothing is watched yet.
    pub(super) fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), inotify: None }
    }

    /// Sees to it that whatever changes from now on is news. Call it before the look that the news are to follow.
    pub(super) fn begin(&mut self) {
        if self.inotify.is_some() {
            return;
        }
        match watch(self.file.parent().unwrap_or(Path::new("/"))) {
            Ok(inotify) => self.inotify = Some(inotify),
            Err(error) => debug!(file = %self.file.display(), %error, "its folder cannot be watched yet"),
        }
    }

    /// Completes when it is time to look.
    pub(super) async fn next(&mut self) {
        let longest = if self.inotify.is_some() { FALLBACK } else { WITHOUT_WATCH };
        // Too late for news is news, too.
        let _ = timeout(longest, self.heard()).await;
    }

    /// Completes with an event that may concern the file.
    async fn heard(&mut self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let lost = loop {
            let Ok(mut ready) = inotify.readable().await else { break true };
            match read(inotify.get_ref(), self.file.file_name()) {
                Ok(Heard::Nothing) => ready.clear_ready(),
                Ok(Heard::File) => break false,
                Ok(Heard::Lost) | Err(_) => break true,
            }
        };
        if lost {
            self.inotify = None;
        }
    }
}

/// What the waiting events say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Heard {
    Nothing,
    File,
    /// The folder is another one now, or none.
    Lost,
}

// Deprecated for types whose descriptor can change under way; the one that replaces it is `unsafe` for their sake.
#[expect(deprecated, reason = "an `OwnedFd` has one descriptor for all its life, and closes it only when it goes")]
fn watch(folder: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // The database in the same folder is written all the time, which is none of these: it stays open.
    let wanted = WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&inotify, folder, wanted)?;
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

/// Reads all events that wait.
fn read(inotify: &OwnedFd, name: Option<&OsStr>) -> io::Result<Heard> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    let mut heard = Heard::Nothing;
    loop {
        let event = match events.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(heard),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let is_ours = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())) == name;
        if event.events().intersects(ABOUT_ALL) {
            heard = Heard::Lost;
        } else if is_ours || event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            heard = heard.max(Heard::File);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;

    use futures::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn comes(news: &mut News) {
        timeout(PATIENCE, news.heard()).await.unwrap();
        news.begin();
    }

    #[tokio::test]
    async fn whatever_happens_to_the_file_is_news_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("location.env");
        let mut news = News::of(&file);
        news.begin();
        fs::write(dir.path().join("data.redb"), "x").unwrap();
        fs::write(dir.path().join("location.env.new"), "x").unwrap();
        assert!(news.heard().now_or_never().is_none());
        fs::rename(dir.path().join("location.env.new"), &file).unwrap();
        comes(&mut news).await;
        fs::write(&file, "y").unwrap();
        comes(&mut news).await;
        fs::rename(&file, dir.path().join("left")).unwrap();
        comes(&mut news).await;
        fs::rename(dir.path().join("left"), &file).unwrap();
        fs::remove_file(&file).unwrap();
        comes(&mut news).await;
        while news.heard().now_or_never().is_some() {}
        // What happened before it was listened to is not lost.
        fs::write(&file, "z").unwrap();
        comes(&mut news).await;
    }

    #[tokio::test]
    async fn a_folder_that_goes_and_comes_back_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("datastore");
        let mut news = News::of(&folder.join("location.env"));
        news.begin();
        assert!(news.inotify.is_none() && news.heard().now_or_never().is_none());
        // The time that it takes to look again, in the test's own time.
        fs::create_dir(&folder).unwrap();
        news.begin();
        assert!(news.inotify.is_some());
        fs::rename(&folder, dir.path().join("aside")).unwrap();
        timeout(PATIENCE, news.heard()).await.unwrap();
        assert!(news.inotify.is_none(), "it watches what is not there any more");
        fs::create_dir(&folder).unwrap();
        news.begin();
        fs::write(folder.join("location.env"), "x").unwrap();
        comes(&mut news).await;
        fs::remove_dir_all(&folder).unwrap();
        while news.inotify.is_some() {
            timeout(PATIENCE, news.heard()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_watch_it_is_time_soon_and_with_one_at_some_time() {
        let dir = tempfile::tempdir().unwrap();
        for (file, longest) in [("none/location.env", WITHOUT_WATCH), ("location.env", FALLBACK)] {
            let mut news = News::of(&dir.path().join(file));
            news.begin();
            let begin = tokio::time::Instant::now();
            news.next().await;
            assert!(begin.elapsed() >= longest && begin.elapsed() < 2 * longest, "{:?}", begin.elapsed());
        }
    }
}
