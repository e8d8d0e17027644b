//! An interface by its name, which need not be there.
//!
//! A question for an interface that is not there is an error to the kernel, and nlink warns of it in the log. So the name
//! is resolved first, by a call to which "there is none" is an ordinary answer.

use nlink::{Connection, LinkMessage, Route};
use rustix::{io::Errno, net::netdevice::name_to_index};

use crate::{AttachError, error::kernel};

/// The interface of this name in the connection's namespace, if there is one.
pub(crate) async fn by_name(links: &Connection<Route>, name: &str) -> Result<Option<LinkMessage>, AttachError> {
    let what = || format!("looking for {name}");
    let index = match name_to_index(links.socket(), name) {
        Ok(index) => index,
        Err(Errno::NODEV) => return Ok(None),
        Err(error) => return Err(AttachError::Kernel { operation: what(), cause: error.to_string() }),
    };
    links.get_link_by_index(index).await.map_err(kernel(what))
}
