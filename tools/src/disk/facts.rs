//! What the system knows about a directory's disk, read only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The facts.
#[derive(Debug, Default)]
pub struct Facts {
    /// The kind of file system: `ext4`.
    pub file_system: String,
    /// What is mounted there: `/dev/vda1`.
    pub source: String,
    /// The options of the mount that matter.
    pub options: String,
    /// The kernel.
    pub kernel: String,
    /// The block device's folder in `/sys`, where there is one.
    pub sys: Option<PathBuf>,
    /// `write back` (a flush is needed) or `write through`.
    pub write_cache: Option<String>,
    /// The device makes a single write durable by itself.
    pub fua: Option<bool>,
    /// It belongs to a virtual machine: what is below it can't be seen.
    pub is_virtual: bool,
    /// It spins. Unknown for a virtual disk.
    pub rotational: Option<bool>,
    /// The I/O scheduler in use.
    pub scheduler: Option<String>,
    /// The model, where the device tells.
    pub model: Option<String>,
}

impl Facts {
    /// Reads what there is; what can't be read stays unknown.
    ///
    /// # Errors
    /// When the directory itself can't be looked at.
    pub fn of(dir: &Path) -> io::Result<Facts> {
        let real = fs::canonicalize(dir)?;
        let mut facts = Facts { kernel: read("/proc/sys/kernel/osrelease"), ..Facts::default() };
        if let Some(mount) = mount_of(&real, &read("/proc/self/mounts")) {
            (facts.source, facts.file_system, facts.options) = mount;
        }
        let dev = fs::metadata(&real)?.dev();
        let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
        let node = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        // A partition has no queue of its own: its parent has.
        let disk = [node.clone(), node.join("..")].into_iter().find(|p| p.join("queue").is_dir());
        if let Some(disk) = disk {
            let get = |name: &str| fs::read_to_string(disk.join(name)).ok().map(|t| t.trim().to_string());
            facts.write_cache = get("queue/write_cache");
            facts.fua = get("queue/fua").map(|t| t == "1");
            let name = facts.source.rsplit('/').next().unwrap_or_default();
            facts.is_virtual = ["vd", "xvd"].iter().any(|prefix| name.starts_with(prefix));
            // A virtual disk says that it rotates unless somebody bothered to tell it otherwise.
            facts.rotational = get("queue/rotational").map(|t| t == "1").filter(|_| !facts.is_virtual);
            facts.scheduler = get("queue/scheduler").map(|t| {
                t.split_once('[').and_then(|(_, t)| t.split_once(']')).map_or(t.clone(), |(t, _)| t.into())
            });
            facts.model = get("device/model");
            facts.sys = Some(disk);
        }
        Ok(facts)
    }

    /// Flush requests that the device has completed since it exists; `None` where the kernel does not count.
    pub fn flushes(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.sys.as_ref()?.join("stat")).ok()?;
        // Documentation/block/stat.rst: the 16th field.
        stat.split_whitespace().nth(15)?.parse().ok()
    }

    /// Whether the files live in memory only.
    pub fn is_memory(&self) -> bool {
        matches!(self.file_system.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }

    /// Whether the files live on another machine or in another program.
    pub fn is_remote(&self) -> bool {
        let fs = self.file_system.as_str();
        fs.starts_with("nfs")
            || fs.starts_with("fuse")
            || matches!(fs, "cifs" | "smb3" | "9p" | "ceph" | "virtiofs")
    }

    /// One line.
    pub fn line(&self) -> String {
        let mut parts =
            vec![format!("{} on {}", or(&self.file_system, "unknown file system"), or(&self.source, "?"))];
        parts.extend(self.model.as_ref().map(|m| format!("model {m}")));
        parts.extend(self.is_virtual.then(|| "virtual disk".to_string()));
        parts.extend(self.rotational.map(|r| if r { "rotating".into() } else { "not rotating".into() }));
        parts.extend(self.write_cache.as_ref().map(|c| format!("cache {c}")));
        parts.extend(self.fua.map(|f| if f { "FUA".into() } else { "no FUA".into() }));
        parts.extend(self.scheduler.as_ref().map(|s| format!("scheduler {s}")));
        parts.push(format!("Linux {}", or(&self.kernel, "?")));
        parts.join(", ")
    }
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

/// The last mount whose point is a parent of the directory, and the longest: source, kind, options.
fn mount_of(dir: &Path, mounts: &str) -> Option<(String, String, String)> {
    let fields = |line: &str| -> Option<(PathBuf, (String, String, String))> {
        let mut f = line.split(' ').map(|f| f.replace("\\040", " "));
        let (source, point, kind, options) = (f.next()?, f.next()?, f.next()?, f.next()?);
        Some((PathBuf::from(point), (source, kind, options)))
    };
    mounts
        .lines()
        .filter_map(fields)
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, facts)| facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_found() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw,nosuid 0 0\n/dev/b /data\\040x xfs rw 0 0\n";
        let kind = |dir: &str| mount_of(Path::new(dir), mounts).unwrap().1;
        assert_eq!(kind("/tmp/a/b"), "tmpfs");
        assert_eq!(kind("/tmpfoo"), "ext4");
        assert_eq!(kind("/data x/log"), "xfs");
    }
}
