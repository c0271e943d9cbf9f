//! What systemd is told: that the node serves, that it is alive, that it ends.
//!
//! `Type=notify` gives a program the socket's name in `NOTIFY_SOCKET`, and `WatchdogSec=` how often it has to speak up in
//! `WATCHDOG_USEC`. Without them nothing is said.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Somebody who wants to hear of the node.
pub(super) struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Listener {
    /// Whoever started the program, if it wants to know.
    pub(super) fn of_env() -> Option<Self> {
        let name = env::var("NOTIFY_SOCKET").ok()?;
        let found = Self::at(&name);
        if let Err(error) = &found {
            tracing::warn!(%error, name, "NOTIFY_SOCKET cannot be used, so nobody is told that the node serves");
        }
        found.ok()
    }

    fn at(name: &str) -> std::io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }

    /// Says something. One who does not listen is not waited for.
    pub(super) fn tell(&self, what: &str) {
        if let Err(error) = self.socket.send_to_addr(what.as_bytes(), &self.address) {
            tracing::debug!(%error, what, "nobody was told");
        }
    }
}

/// How often the program has to say that it is alive: twice as often as it is asked for.
pub(super) fn watchdog_period() -> Option<Duration> {
    let limit: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let is_ours = env::var("WATCHDOG_PID")
        .ok()
        .is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    (is_ours && limit > 0).then(|| Duration::from_micros(limit / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_listens_is_told_by_name_or_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("oriel-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, name) in [
            (by_path, path.to_string_lossy().into_owned()),
            (by_name, format!("@{name}")),
        ] {
            Listener::at(&name).unwrap().tell("READY=1");
            let mut bytes = [0; 16];
            let count = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"READY=1");
        }
        // Nobody is there any more, which is no reason to stop.
        Listener::at(&path.to_string_lossy())
            .unwrap()
            .tell("READY=1");
    }
}
