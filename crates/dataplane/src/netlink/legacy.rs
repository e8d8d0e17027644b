//! Whether the old iptables stands in the way.
//!
//! Rules of `iptables-legacy` are not in nftables and cannot be changed by netlink. They matter in one case: a FORWARD
//! policy of drop loses what we accepted. This can only be reported, and for that it must be read, by the one
//! interface there is: socket options whose values are the tables themselves.
#![allow(unsafe_code, reason = "IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES have no safe wrapper")]

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

use crate::family::Family;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`: name, valid hooks, five entry and five underflow offsets, number and size of entries.
const INFO_LENGTH: usize = 32 + 4 + 5 * 4 + 5 * 4 + 4 + 4;
/// Offset of the FORWARD hook's underflow, the entry that is its policy.
const FORWARD_UNDERFLOW: usize = 32 + 4 + 5 * 4 + 2 * 4;
const SIZE: usize = INFO_LENGTH - 4;
/// `struct ipt_get_entries`: name and size, padded to the entries' alignment.
const ENTRIES_HEADER: usize = 40;
/// `-NF_DROP - 1`.
const VERDICT_DROP: i32 = -1;

/// Whether a FORWARD chain of the legacy filter table has policy drop. `false` if there is no such table: asking for
/// it would create it, so the list of tables is asked first.
pub(crate) fn forward_policy_is_drop(family: Family) -> bool {
    let policy = |(entries, underflow): (Vec<u8>, usize)| policy_is_drop(family, &entries, underflow);
    has_filter(family)
        && read_filter(family).and_then(policy).unwrap_or_else(|error| {
            tracing::warn!(%family, %error, "cannot read the FORWARD policy of iptables-legacy");
            false
        })
}

/// Whether a text, such as the start of a chain's name, is anywhere in the legacy filter table.
pub(crate) fn filter_mentions(family: Family, text: &str) -> bool {
    let mentions = |entries: &[u8]| entries.windows(text.len()).any(|window| window == text.as_bytes());
    has_filter(family) && read_filter(family).is_ok_and(|(entries, _)| mentions(&entries))
}

fn has_filter(family: Family) -> bool {
    let file = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    names.lines().any(|name| name == "filter")
}

/// The entries of the table, and where the FORWARD policy is in them.
fn read_filter(family: Family) -> std::io::Result<(Vec<u8>, usize)> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let socket = rustix::net::socket(domain, SocketType::RAW, Some(rustix::net::ipproto::RAW))?;
    let mut info = vec![0; INFO_LENGTH];
    info[..6].copy_from_slice(b"filter");
    get_option(&socket, family, GET_INFO, &mut info)?;
    let underflow = word(&info, FORWARD_UNDERFLOW)?;
    let size = word(&info, SIZE)?;
    let mut entries = vec![0; ENTRIES_HEADER + size as usize];
    entries[..6].copy_from_slice(b"filter");
    entries[32..36].copy_from_slice(&size.to_ne_bytes());
    get_option(&socket, family, GET_ENTRIES, &mut entries)?;
    Ok((entries.split_off(ENTRIES_HEADER), underflow as usize))
}

/// The entry at the underflow is an unconditional standard target whose verdict is the policy.
fn policy_is_drop(family: Family, entries: &[u8], underflow: usize) -> std::io::Result<bool> {
    // `struct ipt_ip` or `struct ip6t_ip6`, then `nfcache`.
    let target_offset = match family {
        Family::V4 => 84 + 4,
        Family::V6 => 136 + 4,
    };
    let target = word(entries, underflow + target_offset)?.to_ne_bytes();
    let target = underflow + usize::from(u16::from_ne_bytes([target[0], target[1]]));
    // `struct xt_entry_target` has 32 bytes, the verdict follows.
    Ok(word(entries, target + 32)? as i32 == VERDICT_DROP)
}

fn word(bytes: &[u8], offset: usize) -> std::io::Result<u32> {
    let found = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    found
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or_else(|| std::io::Error::other("the table is shorter than it says"))
}

fn get_option(socket: &OwnedFd, family: Family, option: i32, value: &mut [u8]) -> std::io::Result<()> {
    let level = match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    };
    let mut length = value.len() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which is writable and lives over the call; the kernel
    // writes at most `length` bytes.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
