//! A host of one's own for a test, and pods on it.

use std::any::type_name_of_val;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use model::{PodId, PortMapping, Protocol};
use network::{Attachment, Config, Error, Network, Request, Subnet};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tempfile::TempDir;

const INSIDE: &str = "MINKE_TEST_HOST";
const SOON: Duration = Duration::from_secs(2);

/// Runs a test's body in namespaces of its own: the test executes itself once more, alone.
pub(crate) fn isolated<F: Future<Output = ()>>(body: impl FnOnce(World) -> F) {
    if std::env::var_os(INSIDE).is_none() {
        let name = type_name_of_val(&body).trim_end_matches("::{{closure}}");
        let name = name.split_once("::").unwrap().1;
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{name} failed in its namespaces");
        return;
    }
    ip("link set lo up");
    // A new namespace begins with the host's setting, and a daemon may have turned it on there.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(body(World { dir: tempfile::tempdir().unwrap() }));
}

/// The host: directories for a daemon.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    pub(crate) fn config(&self, subnets: &str) -> Config {
        Config {
            bridge_prefix: "minke".to_owned(),
            subnets: Subnet::parse_list(subnets).unwrap(),
            mtu: None,
            wait_for_pod_cidr: false,
            state_dir: self.path("state"),
            netns_dir: self.path("netns"),
        }
    }

    pub(crate) async fn open(&self, subnets: &str) -> Network {
        let network = Network::open(self.config(subnets)).await.unwrap();
        network.adopt(Vec::new()).await.unwrap();
        network
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Names in a directory of the world.
    pub(crate) fn files(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.path(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A pod: a network namespace, and what it got.
pub(crate) struct Pod {
    pub(crate) id: PodId,
    pub(crate) netns: OwnedFd,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) async fn start(network: &Network, n: u8) -> Self {
        Self::with_ports(network, n, Vec::new()).await.unwrap()
    }

    pub(crate) async fn with_ports(
        network: &Network,
        n: u8,
        ports: Vec<PortMapping>,
    ) -> Result<Self, Error> {
        Self::request(network, n, new_netns(), ports).await
    }

    /// A pod in a namespace that is there already.
    pub(crate) async fn in_netns(network: &Network, n: u8, netns: OwnedFd) -> Self {
        Self::request(network, n, netns, Vec::new()).await.unwrap()
    }

    async fn request(
        network: &Network,
        n: u8,
        netns: OwnedFd,
        ports: Vec<PortMapping>,
    ) -> Result<Self, Error> {
        let id = pod_id(n);
        let request = Request {
            pod: id.clone(),
            label: format!("default/pod{n}"),
            netns: netns.try_clone().unwrap(),
            ports,
        };
        let attachment = network.acquire(request).await?;
        Ok(Self { id, netns, attachment })
    }

    /// Ends the pod as its owner does: nobody holds the namespace any more.
    pub(crate) async fn stop(self, network: &Network) {
        drop(self.netns);
        network.release(&self.id, &self.attachment).await.unwrap();
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.attachment.addresses[0].ip
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.netns, work)
    }

    /// Serves on a port of the pod: each caller reads the address it is seen with.
    pub(crate) fn serve(&self, port: u16) {
        let any = if self.ip().is_ipv6() || self.attachment.addresses.len() > 1 {
            "::"
        } else {
            "0.0.0.0"
        };
        let address: SocketAddr = SocketAddr::new(any.parse().unwrap(), port);
        serve(self.inside(|| TcpListener::bind(address)).unwrap());
    }

    /// Calls a server; gives back the address it sees.
    pub(crate) fn call(&self, server: SocketAddr) -> io::Result<IpAddr> {
        self.inside(|| call(server))
    }
}

pub(crate) fn pod_id(n: u8) -> PodId {
    PodId::from_random([n; 32])
}

pub(crate) fn port(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping { protocol, container_port, host_port, host_ip: None }
}

pub(crate) fn new_netns() -> OwnedFd {
    let made = thread::spawn(|| {
        #[expect(deprecated, reason = "the flag it is unsound with is not used")]
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    });
    made.join().unwrap()
}

pub(crate) fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

pub(crate) fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            // The caller may have left.
            let _ = write!(stream, "{peer}");
        }
    });
}

pub(crate) fn call(server: SocketAddr) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&server, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut seen = String::new();
    stream.read_to_string(&mut seen)?;
    seen.parse().map_err(io::Error::other)
}

/// Runs ip(8) with these words, which must succeed; gives back what it prints.
pub(crate) fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names of the links that begin with `minke`.
pub(crate) fn links() -> Vec<String> {
    let shown = ip("-o link");
    let names = shown.lines().map(|line| line.split(": ").nth(1).unwrap());
    let mut ours: Vec<String> = names
        .map(|name| name.split('@').next().unwrap().to_owned())
        .filter(|name| name.starts_with("minke"))
        .collect();
    ours.sort();
    ours
}

/// Makes another machine that the host reaches by its default route; the host is 198.51.100.1 and
/// fd00:51::1 there, the other one ends in 2.
pub(crate) fn uplink(mtu: u32) -> OwnedFd {
    let outside = new_netns();
    let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
    ip(&format!("link add up0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {path}"));
    ip("addr add 198.51.100.1/24 dev up0");
    ip("addr add fd00:51::1/64 dev up0 nodad");
    ip("link set up0 up");
    inside(&outside, || {
        ip("link set lo up");
        ip("addr add 198.51.100.2/24 dev eth0");
        ip("addr add fd00:51::2/64 dev eth0 nodad");
        ip("link set eth0 up");
    });
    ip("route add default via 198.51.100.2");
    ip("route add default via fd00:51::2");
    outside
}
