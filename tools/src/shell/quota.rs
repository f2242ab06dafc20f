//! Quotas as zkCli keeps them: znodes below `/zookeeper/quota`, whose text the server reads.

use super::commands::{Failure, check_path};
use super::session::{Create, Refusal, Session};
use super::show::Screen;
use proto::Code;
use proto::acl::{Id, perms};
use proto::client::CreateMode;
use std::collections::BTreeMap;
use std::fmt;

/// Where all quotas stand.
pub const ROOT: &str = "/zookeeper/quota";
const LIMIT: &str = "zookeeper_limits";
const STAT: &str = "zookeeper_stats";

/// The znode with the limits of a path.
pub fn limit_path(path: &str) -> String {
    format!("{ROOT}{path}/{LIMIT}")
}

fn stat_path(path: &str) -> String {
    format!("{ROOT}{path}/{STAT}")
}

/// The text of a quota: numbers by name, −1 for none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Track(BTreeMap<String, i64>);

impl Track {
    /// Reads the text of a limit or of a statistic.
    ///
    /// # Errors
    /// When it is not a list of names with numbers.
    pub fn parse(bytes: &[u8]) -> Result<Track, Failure> {
        let text = String::from_utf8_lossy(bytes);
        let wrong = || {
            Failure::Malformed(format!("the quota '{text}' can't be read: names with numbers are expected"))
        };
        let mut track = Track::default();
        for pair in text.split([',', ';']).filter(|p| !p.is_empty()) {
            let mut parts = pair.split('=');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return Err(wrong()) };
            let value = if value.is_empty() { -1 } else { value.parse().map_err(|_| wrong())? };
            track.0.insert(name.to_owned(), value);
        }
        Ok(track)
    }

    /// The number of a name, −1 if there is none.
    pub fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(-1)
    }

    /// Sets the number of a name.
    pub fn set(&mut self, name: &str, value: i64) {
        self.0.insert(name.to_owned(), value);
    }

    /// As a JSON object.
    pub fn json(&self) -> serde_json::Value {
        self.0.iter().map(|(k, v)| (k.clone(), (*v).into())).collect::<serde_json::Map<_, _>>().into()
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.get("count"), self.get("bytes"))?;
        let mut rest = self.0.iter().filter(|(k, _)| *k != "count" && *k != "bytes").peekable();
        if rest.peek().is_some() {
            // Readers of old take what follows for the rest of the number and stop before it.
            f.write_str("=")?;
        }
        rest.try_for_each(|(k, v)| write!(f, ";{k}={v}"))
    }
}

/// The names of the four limits by their options.
pub const LIMITS: [(&str, &str); 4] =
    [("n", "count"), ("b", "bytes"), ("N", "countHardLimit"), ("B", "byteHardLimit")];

fn open_acl() -> [(i32, Id); 1] {
    [(perms::ALL, Id::new("world", "anyone"))]
}

fn create(zk: &Session, path: &str, data: Option<&[u8]>) -> Result<(), Refusal> {
    let acl = open_acl();
    zk.create(&Create { path, data, acl: &acl, mode: CreateMode::Persistent, ttl_ms: -1 }).map(drop)
}

fn read(zk: &Session, path: &str) -> Result<Track, Failure> {
    let (data, _) = zk.get_data(path, false)?;
    Track::parse(&data.unwrap_or_default())
}

/// Sets limits; those that `wanted` leaves at −1 stay.
///
/// # Errors
/// When the znode does not exist, another quota stands above or below, or the server refuses.
pub fn set(zk: &Session, screen: &Screen, path: &str, wanted: &Track) -> Result<(), Failure> {
    if zk.exists(path, false)?.is_none() {
        return Err(Failure::Malformed(format!("{path} does not exist.")));
    }
    refuse_below(zk, path)?;
    refuse_above(zk, path)?;
    let exists_is_fine = |r: Result<(), Refusal>| match r {
        Err(e) if e.code != Code::NodeExists.wire() => Err(e),
        _ => Ok(()),
    };
    if zk.exists(ROOT, false)?.is_none() {
        exists_is_fine(create(zk, "/zookeeper", None))?;
        exists_is_fine(create(zk, ROOT, None))?;
    }
    let mut at = ROOT.to_owned();
    for name in path.split('/').skip(1) {
        at = format!("{at}/{name}");
        if zk.exists(&at, false)?.is_none() {
            exists_is_fine(create(zk, &at, None))?;
        }
    }
    let (limits, stats) = (format!("{at}/{LIMIT}"), format!("{at}/{STAT}"));
    if zk.exists(&limits, false)?.is_none() {
        create(zk, &limits, Some(wanted.to_string().as_bytes()))?;
        let mut zero = Track::default();
        zero.set("count", 0);
        zero.set("bytes", 0);
        create(zk, &stats, Some(zero.to_string().as_bytes()))?;
        warn_if_exceeded(screen, &read(zk, &limits)?, &read(zk, &stats)?);
    } else {
        let mut all = read(zk, &limits)?;
        for (_, name) in LIMITS {
            if wanted.get(name) > -1 {
                all.set(name, wanted.get(name));
            }
        }
        warn_if_exceeded(screen, &all, &read(zk, &stats)?);
        zk.set_data(&limits, all.to_string().as_bytes(), -1)?;
    }
    Ok(())
}

fn warn_if_exceeded(screen: &Screen, limits: &Track, stats: &Track) {
    for (soft, hard, what) in [("count", "countHardLimit", "count"), ("bytes", "byteHardLimit", "bytes")] {
        let used = stats.get(what);
        if [soft, hard].iter().any(|name| limits.get(name) > -1 && limits.get(name) < used) {
            let text =
                format!("[Warning]: the {what} quota you create is less than the existing {what}:{used}");
            screen.line(&text);
            screen.push("warnings", text.into());
        }
    }
}

/// A quota below the path is refused.
fn refuse_below(zk: &Session, path: &str) -> Result<(), Failure> {
    let top = format!("{ROOT}{path}");
    check_path(&top)?;
    let mut open = vec![top.clone()];
    while let Some(at) = open.pop() {
        let children = match zk.children(&at, false) {
            Ok((children, _)) => children,
            Err(e) if e.code == Code::NoNode.wire() => continue,
            Err(e) => return Err(e.into()),
        };
        if at != top && children.iter().any(|c| c == LIMIT) {
            let other = &at[ROOT.len()..];
            return Err(Failure::Malformed(format!("{path} has a child {other} which has a quota")));
        }
        open.extend(children.iter().map(|c| format!("{at}/{c}")));
    }
    Ok(())
}

/// A quota above the path is refused.
fn refuse_above(zk: &Session, path: &str) -> Result<(), Failure> {
    let mut at = ROOT.to_owned();
    let names: Vec<_> = path.split('/').skip(1).collect();
    for name in &names[..names.len().saturating_sub(1)] {
        at = format!("{at}/{name}");
        let children = match zk.children(&at, false) {
            Ok((children, _)) => children,
            Err(e) if e.code == Code::NoNode.wire() => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if children.iter().any(|c| c == LIMIT) {
            let other = &at[ROOT.len()..];
            return Err(Failure::Malformed(format!("{path} has a parent {other} which has a quota")));
        }
    }
    Ok(())
}

/// The limits and what is used of them.
///
/// # Errors
/// When there is no quota, or the server refuses.
pub fn get(zk: &Session, path: &str) -> Result<(Track, Track), Failure> {
    Ok((read(zk, &limit_path(path))?, read(zk, &stat_path(path))?))
}

/// Removes the named limits, or the quota as a whole; false if there is none.
///
/// # Errors
/// When the server refuses.
pub fn delete(zk: &Session, path: &str, named: &[&str]) -> Result<bool, Failure> {
    let limits = limit_path(path);
    check_path(&limits)?;
    if zk.exists(&limits, false)?.is_none() {
        return Ok(false);
    }
    if !named.is_empty() {
        let mut track = read(zk, &limits)?;
        named.iter().for_each(|name| track.set(name, -1));
        zk.set_data(&limits, track.to_string().as_bytes(), -1)?;
        return Ok(true);
    }
    let mut at = format!("{ROOT}{path}");
    for child in zk.children(&at, false)?.0 {
        zk.delete(&format!("{at}/{child}"), -1)?;
    }
    // What only led there goes too.
    while at != ROOT && zk.children(&at, false)?.0.is_empty() {
        zk.delete(&at, -1)?;
        at.truncate(at.rfind('/').expect("it lies below the root of the quotas"));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_quotas_is_apaches() {
        for (text, shown) in [
            ("", "count=-1,bytes=-1"),
            ("count=5,bytes=7", "count=5,bytes=7"),
            (
                "count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=9",
                "count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=9",
            ),
            ("count=,bytes=3", "count=-1,bytes=3"),
        ] {
            assert_eq!(Track::parse(text.as_bytes()).unwrap().to_string(), shown, "{text}");
        }
        assert!(Track::parse(b"count").is_err());
        assert!(Track::parse(b"count=x").is_err());
        assert_eq!(limit_path("/a/b"), "/zookeeper/quota/a/b/zookeeper_limits");
    }
}
