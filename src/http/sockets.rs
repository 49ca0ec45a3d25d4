//! The sockets behind tiny_http's connections: making listeners, finding connections, ending them.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, TcpKeepalive, Type};

use super::connections::Key;
use super::os;
use crate::error::{Context, Error, Result};

/// Connections that wait to be accepted: a burst of replicas that come back at once must fit.
const BACKLOG: i32 = 1024;
/// Dead peers of idle connections are noticed after 60 + 3 * 10 seconds.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// Bytes that nobody confirms for so long belong to a dead peer.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a loopback connection of our own may take.
const KICK_TIMEOUT: Duration = Duration::from_millis(200);

/// Where connections come in.
pub(super) enum Listener {
    /// With its address.
    Tcp(TcpListener, SocketAddr),
    /// With its path.
    Unix(UnixListener, PathBuf),
}

/// What an open descriptor turned out to be.
pub(super) enum Found {
    /// A connection of this listener.
    Tcp(Key),
    /// A connection of this listener whose peer has gone.
    TcpClosed,
    /// A connection to this listener's path.
    Unix(usize),
}

impl Listener {
    /// Opens a TCP port. Accepted connections inherit all options.
    pub(super) fn tcp(address: SocketAddr, write_timeout: Duration) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?; // the v4 wildcard can be listened to beside it
            }
            socket.set_reuse_address(true)?;
            socket.set_tcp_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE_IDLE)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_RETRIES);
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            // A receive timeout would end tiny_http's accept loop; the guard does that part.
            socket.set_write_timeout(Some(write_timeout))?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from(socket);
            let address = listener.local_addr()?;
            Ok(Self::Tcp(listener, address))
        };
        open().map_err(|e| Error::unavailable(format!("listening on {address}")).caused_by(e))
    }

    /// Opens a unix socket, in place of one that nobody listens to any more.
    pub(super) fn unix(path: &Path, mode: u32) -> Result<Self> {
        if path.exists() && UnixStream::connect(path).is_ok() {
            let taken = format!("another process listens on {}", path.display());
            return Err(Error::unavailable(taken));
        }
        let open = || -> io::Result<Self> {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&socket2::SockAddr::unix(path)?)?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            socket.listen(BACKLOG)?;
            Ok(Self::Unix(UnixListener::from(std::os::fd::OwnedFd::from(socket)), path.to_owned()))
        };
        open().context(|| format!("listening on {}", path.display()))
    }

    /// A tiny_http server that accepts from this listener.
    pub(super) fn serve(&self) -> Result<tiny_http::Server> {
        let server = match self {
            Self::Tcp(listener, _) => tiny_http::Server::from_listener(listener.try_clone()?, None),
            Self::Unix(listener, _) => {
                tiny_http::Server::from_listener(listener.try_clone()?, None)
            }
        };
        server.map_err(|e| Error::internal("starting to accept connections").caused_by(e))
    }

    /// The address, for TCP.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(..) => None,
        }
    }

    /// How many connections wait to be accepted; 0 for unix sockets, where the system does not say.
    pub(super) fn backlog(&self) -> u32 {
        match self {
            Self::Tcp(listener, _) => os::tcp_info(listener).map_or(0, |info| info.backlog),
            Self::Unix(..) => 0,
        }
    }

    /// Ends accepting; tiny_http's accept loop ends with an error.
    pub(super) fn shut(&self) {
        let result = match self {
            Self::Tcp(listener, _) => socket2::SockRef::from(listener).shutdown(Shutdown::Both),
            Self::Unix(listener, path) => {
                let _ = fs::remove_file(path);
                socket2::SockRef::from(listener).shutdown(Shutdown::Both)
            }
        };
        if let Err(e) = result {
            log::debug!("closing a listener: {e}");
        }
    }

    /// Makes tiny_http look again for connections that its pool of threads forgot: a new connection brings a thread
    /// that takes a waiting one when it is done.
    pub(super) fn kick(&self) {
        let result = match self {
            Self::Tcp(_, address) => {
                TcpStream::connect_timeout(&reachable(*address), KICK_TIMEOUT).map(drop)
            }
            Self::Unix(_, path) => UnixStream::connect(path).map(drop),
        };
        if let Err(e) = result {
            log::debug!("kicking a stuck connection: {e}");
        }
    }

    fn accepts(&self, local: SocketAddr) -> bool {
        self.address().is_some_and(|own| {
            let is_any = own.ip().is_unspecified() && own.is_ipv4() == local.is_ipv4();
            own.port() == local.port() && (is_any || own.ip() == local.ip())
        })
    }
}

/// An address that reaches a listener from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// What a socket of this process is to these listeners; none if nothing.
pub(super) fn identify(socket: &Socket, listeners: &[Listener]) -> Option<Found> {
    let local = socket.local_addr().ok()?;
    if let Some(local) = local.as_socket() {
        let listener = listeners.iter().position(|l| l.accepts(local))?;
        return match socket.peer_addr() {
            Ok(peer) => Some(Found::Tcp(Key { listener, peer: peer.as_socket()? })),
            Err(_) if is_listening(socket) => None,
            Err(_) => Some(Found::TcpClosed),
        };
    }
    let path = local.as_pathname()?;
    let is_ours = |l: &Listener| matches!(l, Listener::Unix(_, own) if own == path);
    let listener = listeners.iter().position(is_ours)?;
    (!is_listening(socket)).then_some(Found::Unix(listener))
}

fn is_listening(socket: &Socket) -> bool {
    socket.is_listener().unwrap_or(false)
}

/// The socket of a connection: behind the descriptor under which it was seen last, or found anew.
pub(super) fn find(key: &Key, hint: RawFd, listeners: &[Listener]) -> Option<Socket> {
    let verify = |fd: RawFd| {
        let socket = os::duplicate(fd)?;
        let is_it =
            matches!(identify(&socket, listeners), Some(Found::Tcp(found)) if found == *key);
        is_it.then_some(socket)
    };
    verify(hint).or_else(|| os::open_descriptors().into_iter().find_map(verify))
}

/// Shows each connection of these listeners once, with its descriptor and the number that the kernel knows it by.
pub(super) fn for_each(listeners: &[Listener], mut show: impl FnMut(RawFd, &Socket, u64, Found)) {
    let mut shown = HashSet::new();
    for fd in os::open_descriptors() {
        let Some(socket) = os::duplicate(fd) else { continue };
        let Ok(cookie) = socket.cookie() else { continue }; // no socket
        if !shown.insert(cookie) {
            continue; // tiny_http holds two descriptors of each
        }
        if let Some(found) = identify(&socket, listeners) {
            show(fd, &socket, cookie, found);
        }
    }
}

/// Whether the other end has closed, or will send nothing more.
pub(super) fn is_peer_gone(socket: &Socket) -> bool {
    os::tcp_info(socket).is_ok_and(|info| info.state != os::ESTABLISHED)
}

/// Whether bytes wait that tiny_http has not read.
pub(super) fn has_pending(socket: &Socket) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    matches!(socket.recv_with_flags(&mut byte, flags), Ok(1))
}

/// Ends a connection both ways at once, and throws away what came in: tiny_http must find nothing to go on with.
pub(super) fn cut(socket: &Socket) {
    let _ = socket.shutdown(Shutdown::Both); // fails if the other end was quicker
    let mut scrap = [MaybeUninit::uninit(); 16 * 1024];
    while matches!(socket.recv_with_flags(&mut scrap, libc::MSG_DONTWAIT), Ok(n) if n > 0) {}
}

/// The same for a client that misbehaves: what is under way to it is lost, and it learns of the end at once, even with a
/// full window.
pub(super) fn reset(socket: &Socket) {
    let _ = socket.set_linger(Some(Duration::ZERO)); // the close that follows resets
    cut(socket);
}

/// Sends the end of the connection, and reads on for a while so that the client gets to see what was sent before.
pub(super) fn linger(socket: &Socket, span: Duration, bytes_max: usize) {
    if socket.shutdown(Shutdown::Write).is_err() || socket.set_read_timeout(Some(span)).is_err() {
        return;
    }
    let (end, mut left) = (Instant::now() + span, bytes_max);
    let mut scrap = [0; 16 * 1024];
    while left > 0 && Instant::now() < end {
        match (&*socket).read(&mut scrap) {
            Ok(n) if n > 0 => left = left.saturating_sub(n),
            _ => return,
        }
    }
}

/// Whether dropping this request can be left to tiny_http: it makes a buffer as long as the rest of the body, and the
/// process ends if there is no memory for it.
pub(super) fn can_drain(request: &tiny_http::Request) -> bool {
    request.body_length().is_none_or(|n| Vec::<u8>::new().try_reserve_exact(n).is_ok())
}

/// Whether accepting a connection would find free descriptors.
pub(super) fn has_free_descriptors() -> bool {
    const NEEDED: usize = 8;
    let held: io::Result<Vec<fs::File>> =
        (0..NEEDED).map(|_| fs::File::open("/dev/null")).collect();
    held.is_ok()
}
