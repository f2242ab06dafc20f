//! This machine: limits, io_uring, clock, swap.

use super::Examination;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;

const ABOUT: &str = "this machine";

/// Fewer descriptors than this are few for a server: each client takes one.
const DESCRIPTORS_FEW: u64 = 4096;

/// Looks at what the system grants to a process of this user.
pub fn check(e: &mut Examination) {
    let files = getrlimit(Resource::Nofile).maximum;
    match files {
        Some(n) if n < DESCRIPTORS_FEW => e.warn(
            "descriptors",
            ABOUT,
            format!(
                "a process may have {n} open files (ulimit -Hn): each client takes one, the server keeps 64"
            ),
            "LimitNOFILE=1048576 in the unit, or nofile in /etc/security/limits.conf",
        ),
        n => e.fine(
            "descriptors",
            ABOUT,
            n.map_or("open files are not limited".into(), |n| format!("{n} open files")),
        ),
    }
    io_uring(e);
    clock(e);
    let swap = meminfo("SwapTotal:");
    let swappiness = number("/proc/sys/vm/swappiness");
    if swap.is_some_and(|kib| kib > 0) && swappiness.is_some_and(|n| n > 10) {
        e.note(
            "swap",
            ABOUT,
            format!(
                "there is swap, and vm.swappiness is {}: parts of the tree may have to come back from it",
                swappiness.unwrap_or(0)
            ),
            "sysctl vm.swappiness=1, or no swap on a machine that serves",
        );
    } else {
        e.fine("swap", ABOUT, "nothing is swapped without need".into());
    }
}

fn io_uring(e: &mut Examination) {
    let slower = "the server takes pwritev2 instead: as safe, a little slower";
    if number("/proc/sys/kernel/io_uring_disabled").is_some_and(|n| n > 0) {
        let what = format!("io_uring is switched off (kernel.io_uring_disabled): {slower}");
        e.note("io-uring", ABOUT, what, "sysctl kernel.io_uring_disabled=0, if the machine's owner agrees");
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|l| l.strip_prefix("Seccomp:").is_some_and(|v| v.trim() == "2")) {
        let what =
            format!("a filter of system calls is on, which forbids io_uring in most containers: {slower}");
        e.note(
            "io-uring",
            ABOUT,
            what,
            "the server's line 'log device' says what it got; a seccomp profile may allow io_uring",
        );
        return;
    }
    e.fine("io-uring", ABOUT, "nothing forbids io_uring".into());
}

fn clock(e: &mut Examination) {
    // A container has its host's clock, and can't see who sets it.
    if Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists() {
        return;
    }
    let set = [
        "/run/systemd/timesync/synchronized",
        "/run/chrony/chronyd.pid",
        "/run/chronyd.pid",
        "/run/ntpd.pid",
        "/run/ntpsec",
    ];
    if set.iter().any(|p| Path::new(p).exists()) {
        e.fine("time-service", ABOUT, "the clock is kept by NTP".into());
    } else {
        e.note(
            "time-service",
            ABOUT,
            "nothing is seen that keeps the clock (systemd-timesyncd, chrony, ntpd)".into(),
            "sessions run on the monotonic clock and are safe; times of znodes and logs will disagree between servers",
        );
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}
