//! A container's output as lines, and its end.

use std::collections::VecDeque;

use bollard::{
    container::LogOutput,
    errors::Error as ApiError,
    query_parameters::{LogsOptionsBuilder, WaitContainerOptionsBuilder},
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};

use super::{Docker, DockerError, LogLine, about_container, container_name};

/// A line that grows longer than this is cut: a service that prints no line ends must not fill our memory.
const LONGEST_LINE: usize = 64 * 1024;

impl Docker {
    /// The container's output, line by line, from `since` (seconds since 1970; `None`: from the beginning) until it
    /// ends. Waits as long as the container is silent. An error is the last item.
    pub fn follow_logs(
        &self,
        name: &str,
        since: Option<i64>,
    ) -> impl Stream<Item = Result<LogLine, DockerError>> + Send + use<> {
        if let Err(error) = container_name(name) {
            return lines(stream::iter([Err(error)]).boxed());
        }
        let mut options = LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true);
        if let Some(since) = since {
            options = options.since(i32::try_from(since).unwrap_or(i32::MAX));
        }
        let output = self.api.logs(name, Some(options.build()));
        let (docker, name) = (self.clone(), name.to_owned());
        let operation = format!("reading the output of container {name}");
        let pieces =
            output.map(move |piece| piece.map_err(|error| about_container(&name, docker.error(&operation, error))));
        lines(pieces.boxed())
    }

    /// Waits until the container ends, however long that takes; returns its exit code.
    ///
    /// # Errors
    /// [`DockerError::NoSuchContainer`], and [`DockerError::Transport`] if the daemon goes away meanwhile.
    pub async fn wait(&self, name: &str) -> Result<i64, DockerError> {
        container_name(name)?;
        let operation = format!("waiting for the end of container {name}");
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        match self.api.wait_container(name, Some(options)).boxed().next().await {
            Some(Ok(end)) => Ok(end.status_code),
            // The wrapper takes every exit code but 0 for an error.
            Some(Err(ApiError::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(about_container(name, self.error(&operation, error))),
            None => Err(DockerError::Transport { operation, cause: "the daemon broke off".into() }),
        }
    }
}

/// What is left of the lines that are not complete yet: one for each stream, since their pieces come interleaved.
#[derive(Default)]
struct Partial {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Partial {
    /// Takes a piece in and returns the lines that it completes.
    fn absorb(&mut self, piece: &LogOutput) -> VecDeque<LogLine> {
        let stderr = matches!(piece, LogOutput::StdErr { .. });
        let pending = if stderr { &mut self.err } else { &mut self.out };
        let mut complete = VecDeque::new();
        for part in piece.as_ref().split_inclusive(|&byte| byte == b'\n') {
            pending.extend_from_slice(part);
            if part.ends_with(b"\n") || pending.len() >= LONGEST_LINE {
                complete.push_back(line(stderr, pending));
                pending.clear();
            }
        }
        complete
    }

    /// The lines that the end of the output leaves without a line end.
    fn flush(&mut self) -> VecDeque<LogLine> {
        let rest = [(false, std::mem::take(&mut self.out)), (true, std::mem::take(&mut self.err))];
        rest.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(stderr, bytes)| line(*stderr, bytes)).collect()
    }
}

fn line(stderr: bool, bytes: &[u8]) -> LogLine {
    let text = String::from_utf8_lossy(bytes);
    LogLine { stderr, text: text.trim_end_matches(['\n', '\r']).to_owned() }
}

/// Pieces as they come from Docker, turned into lines.
fn lines(
    pieces: BoxStream<'static, Result<LogOutput, DockerError>>,
) -> BoxStream<'static, Result<LogLine, DockerError>> {
    let partial = Partial::default();
    stream::unfold((Some(pieces), partial, VecDeque::new()), |(mut pieces, mut partial, mut ready)| async move {
        loop {
            if let Some(line) = ready.pop_front() {
                return Some((Ok(line), (pieces, partial, ready)));
            }
            match pieces.as_mut()?.next().await {
                Some(Ok(piece)) => ready = partial.absorb(&piece),
                Some(Err(error)) => return Some((Err(error), (None, partial, ready))),
                None => (pieces, ready) = (None, partial.flush()),
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn collect(pieces: Vec<LogOutput>) -> Vec<(bool, String)> {
        let pieces = stream::iter(pieces.into_iter().map(Ok)).boxed();
        let lines = crate::tests::support::block_on(lines(pieces).map(Result::unwrap).collect::<Vec<_>>());
        lines.into_iter().map(|line| (line.stderr, line.text)).collect()
    }

    fn out(text: &str) -> LogOutput {
        LogOutput::StdOut { message: text.to_owned().into() }
    }

    fn err(text: &str) -> LogOutput {
        LogOutput::StdErr { message: text.to_owned().into() }
    }

    #[test]
    fn pieces_become_lines_whatever_their_cut() {
        let pieces = vec![out("one\ntw"), err("bad"), out("o\r\n"), err(" news\n"), out("\nend")];
        let lines = [(false, "one"), (false, "two"), (true, "bad news"), (false, ""), (false, "end")];
        assert_eq!(collect(pieces), lines.map(|(stderr, text)| (stderr, text.to_owned())));
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        let endless = vec![out(&"x".repeat(LONGEST_LINE)), out("y\n")];
        assert_eq!(collect(endless).iter().map(|(_, text)| text.len()).collect::<Vec<_>>(), [LONGEST_LINE, 1]);
    }
}
