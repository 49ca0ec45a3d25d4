//! What the connection guard asks the system beyond std: the sockets of this process, and how far each has come.
//!
//! tiny_http gives no access to its sockets, so they are found among the open descriptors. This is the one file of the
//! crate with unsafe code.
#![expect(unsafe_code, reason = "no safe call duplicates a foreign descriptor or reads TCP_INFO")]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use socket2::Socket;

/// The kernel's number for a TCP connection that is open both ways.
pub(super) const ESTABLISHED: u8 = 1;
/// The same for one that the other end has closed.
const CLOSE_WAIT: u8 = 8;

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpInfo {
    /// The kernel's number; `ESTABLISHED` or one of ten others.
    pub state: u8,
    /// Bytes that came from the other side since the connection stands.
    pub bytes_received: u64,
    /// Bytes that the other side has confirmed.
    pub bytes_acked: u64,
    /// For a listening socket: connections that wait to be accepted.
    pub backlog: u32,
}

impl TcpInfo {
    /// Whether this end was closed.
    pub(super) fn is_ended(&self) -> bool {
        !matches!(self.state, ESTABLISHED | CLOSE_WAIT)
    }
}

/// The numbers of all open descriptors.
pub(super) fn open_descriptors() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A copy of our own of whatever stands behind this number now; none if nothing does, or nothing can be opened.
///
/// The number may mean something else by the time of the call, so the caller must look at what it got before using it.
pub(super) fn duplicate(fd: RawFd) -> Option<Socket> {
    if fd < 0 {
        return None;
    }
    // SAFETY: the number is used for one call that fails with EBADF if it is closed; it is not negative.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().ok().map(Socket::from)
}

/// Reads `TCP_INFO`.
pub(super) fn tcp_info(socket: &impl AsRawFd) -> io::Result<TcpInfo> {
    // SAFETY: the struct is plain numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the pointers are to a live struct of the given length and to that length; the kernel writes no more.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(TcpInfo {
        state: info.tcpi_state,
        bytes_received: info.tcpi_bytes_received,
        bytes_acked: info.tcpi_bytes_acked,
        backlog: info.tcpi_unacked,
    })
}

/// How many bytes have come that this process has not read yet.
pub(super) fn unread(socket: &impl AsRawFd) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: the pointer is to a live number of the type that this request writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result == 0 { u64::try_from(count).unwrap_or(0) } else { 0 }
}

/// Raises the limit of open files as far as the system lets it, and says how many that are.
pub(super) fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live struct of the right type.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return 0;
        }
        let wanted = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        if limit.rlim_cur < limit.rlim_max
            && libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0
        {
            limit = wanted;
        }
    }
    limit.rlim_cur
}

/// Sets a variable of the environment if this process has no second thread that could read it meanwhile; says whether
/// it did.
pub(super) fn set_variable(name: &str, value: &str) -> bool {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return false;
    }
    // SAFETY: this is the only thread, so nobody reads the environment at the same time.
    unsafe { std::env::set_var(name, value) };
    true
}

/// Sets one of glibc's settings of memory, where glibc it is; says whether it did.
pub(super) fn set_allocator(setting: i32, value: i32) -> bool {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes two numbers and touches nothing but the allocator's own settings, under its own lock.
        unsafe { libc::mallopt(setting, value) == 1 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        let _ = (setting, value);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_sockets_are_found_and_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        io::Write::write_all(&mut &client, b"hello").unwrap();
        assert!(open_descriptors().contains(&server.as_raw_fd()));
        let copy = duplicate(server.as_raw_fd()).unwrap();
        assert_eq!(copy.peer_addr().unwrap().as_socket(), Some(peer));
        let info = tcp_info(&copy).unwrap();
        assert_eq!((info.state, info.bytes_received), (ESTABLISHED, 5));
        assert_eq!(unread(&copy), 5);
        drop(client);
        let mut rest = Vec::new();
        io::Read::read_to_end(&mut &server, &mut rest).unwrap();
        assert_eq!(unread(&copy), 0);
        assert_eq!(tcp_info(&copy).unwrap().state, CLOSE_WAIT);
    }

    #[test]
    fn what_is_not_open_is_none() {
        assert!(duplicate(-1).is_none());
        assert!(duplicate(1_000_000).is_none());
        assert!(raise_open_files() > 0);
    }
}
