//! Which addresses are in use, and which is handed out next.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use crate::subnet::Subnet;

/// The addresses of all pods, whatever subnet they came from, and the order of the free ones.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    held: HashSet<IpAddr>,
    pools: Vec<Pool>,
}

/// The free addresses of one subnet: first those that were never used since the start, in order,
/// then those that were given back, oldest first. A client that still talks to a former owner of an
/// address thus meets the new one as late as possible.
#[derive(Debug)]
struct Pool {
    subnet: Subnet,
    next: u32,
    untouched: u32,
    returned: VecDeque<IpAddr>,
    in_returned: HashSet<IpAddr>,
}

impl Ipam {
    /// Takes addresses from these subnets from now on. `after` are the addresses that were taken
    /// last before a restart: what follows them is free the longest.
    pub(crate) fn set_subnets(&mut self, subnets: &[Subnet], after: &[IpAddr]) {
        let mut old = std::mem::take(&mut self.pools);
        for subnet in subnets {
            let kept = old.iter().position(|pool| pool.subnet == *subnet);
            self.pools.push(match kept {
                Some(i) => old.swap_remove(i),
                None => Pool::new(*subnet, after),
            });
        }
    }

    /// One free address of each subnet, from now on held; or the subnet that has none.
    pub(crate) fn take(&mut self) -> Result<Vec<(IpAddr, Subnet)>, Subnet> {
        let mut taken = Vec::with_capacity(self.pools.len());
        for i in 0..self.pools.len() {
            let Some(ip) = self.pools[i].take(&self.held) else {
                for (ip, _) in taken {
                    self.give_back(ip);
                }
                return Err(self.pools[i].subnet);
            };
            self.held.insert(ip);
            taken.push((ip, self.pools[i].subnet));
        }
        Ok(taken)
    }

    /// Marks an address as in use; false when it already was.
    pub(crate) fn hold(&mut self, ip: IpAddr) -> bool {
        self.held.insert(ip)
    }

    /// Makes an address free again; it is handed out after all that are free already.
    pub(crate) fn give_back(&mut self, ip: IpAddr) {
        if !self.held.remove(&ip) {
            return;
        }
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet.contains(ip))
            && pool.in_returned.insert(ip)
        {
            pool.returned.push_back(ip);
        }
    }
}

impl Pool {
    fn new(subnet: Subnet, after: &[IpAddr]) -> Self {
        let last = after.iter().find(|ip| subnet.contains(**ip)).map(|ip| subnet.offset(*ip));
        let next = last.map_or(2, |last| last.saturating_add(1));
        Self {
            subnet,
            next,
            untouched: subnet.last_offset() - 1,
            returned: VecDeque::new(),
            in_returned: HashSet::new(),
        }
    }

    fn take(&mut self, held: &HashSet<IpAddr>) -> Option<IpAddr> {
        while self.untouched > 0 {
            if !(2..=self.subnet.last_offset()).contains(&self.next) {
                self.next = 2;
            }
            let ip = self.subnet.nth(self.next);
            self.next += 1;
            self.untouched -= 1;
            if !held.contains(&ip) && !self.in_returned.contains(&ip) {
                return Some(ip);
            }
        }
        while let Some(ip) = self.returned.pop_front() {
            self.in_returned.remove(&ip);
            if !held.contains(&ip) {
                return Some(ip);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(subnets: &str, after: &[&str]) -> Ipam {
        let mut ipam = Ipam::default();
        let after: Vec<IpAddr> = after.iter().map(|ip| ip.parse().unwrap()).collect();
        ipam.set_subnets(&Subnet::parse_list(subnets).unwrap(), &after);
        ipam
    }

    fn take(ipam: &mut Ipam) -> Option<String> {
        let taken = ipam.take().ok()?;
        Some(taken.iter().map(|(ip, _)| ip.to_string()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn never_used_addresses_come_first_then_the_oldest_returned() {
        let mut ipam = ipam("10.0.0.0/29", &[]);
        let all: Vec<String> = std::iter::from_fn(|| take(&mut ipam)).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        for ip in ["10.0.0.5", "10.0.0.2", "10.0.0.5"] {
            ipam.give_back(ip.parse().unwrap());
        }
        assert_eq!(take(&mut ipam).as_deref(), Some("10.0.0.5"));
        assert_eq!(take(&mut ipam).as_deref(), Some("10.0.0.2"));
        assert_eq!(take(&mut ipam), None);
    }

    #[test]
    fn a_restart_goes_on_behind_the_last_address_and_skips_the_held() {
        let mut ipam = ipam("10.0.0.0/29", &["10.0.0.5"]);
        assert!(ipam.hold("10.0.0.5".parse().unwrap()));
        assert!(!ipam.hold("10.0.0.5".parse().unwrap()));
        assert!(ipam.hold("10.0.0.2".parse().unwrap()));
        // Returned before its turn: it queues with the returned ones.
        ipam.give_back("10.0.0.2".parse().unwrap());
        let all: Vec<String> = std::iter::from_fn(|| take(&mut ipam)).collect();
        assert_eq!(all, ["10.0.0.6", "10.0.0.3", "10.0.0.4", "10.0.0.2"]);
    }

    #[test]
    fn a_full_subnet_takes_nothing_from_the_other() {
        let mut ipam = ipam("10.0.0.0/30,fd00::/64", &[]);
        assert_eq!(take(&mut ipam).as_deref(), Some("10.0.0.2 fd00::2"));
        assert_eq!(ipam.take().unwrap_err().to_string(), "10.0.0.0/30");
        ipam.give_back("10.0.0.2".parse().unwrap());
        assert_eq!(take(&mut ipam).as_deref(), Some("10.0.0.2 fd00::3"));
    }

    #[test]
    fn a_changed_subnet_leaves_held_addresses_alone() {
        let mut ipam = ipam("10.0.0.0/30", &[]);
        take(&mut ipam).unwrap();
        ipam.set_subnets(&Subnet::parse_list("10.9.0.0/30").unwrap(), &[]);
        assert_eq!(take(&mut ipam).as_deref(), Some("10.9.0.2"));
        ipam.set_subnets(&Subnet::parse_list("10.0.0.0/30").unwrap(), &[]);
        assert_eq!(take(&mut ipam), None);
    }
}
