//! Who uses a server most, and where: the tables of its page, for a terminal.

use crate::render::{self, Table};
use serde_json::Value;

/// The busiest client addresses, sessions and top-level paths of what `/api/live` says, at most `n` of each.
pub fn tables(live: &Value, n: usize) -> String {
    let rows = |list: &str| live[list].as_array().into_iter().flatten().take(n).collect::<Vec<_>>();
    let text = |v: &Value, name: &str| v[name].as_str().unwrap_or("-").to_owned();
    let count = |v: &Value, name: &str| v[name].as_u64().map_or_else(|| "-".into(), render::grouped);
    let bytes = |v: &Value, name: &str| render::bytes(v[name].as_u64().unwrap_or(0));
    let mut paths = Table::new(["path", "requests", "reads", "writes", "bytes", "waiting", "watches"]);
    for p in rows("namespaces") {
        let mut row = vec![text(p, "name")];
        row.extend(["requests", "reads", "writes"].map(|name| count(p, name)));
        row.extend([bytes(p, "bytes"), count(p, "outstanding"), count(p, "watches")]);
        paths.row(row);
    }
    let used = |v: &Value| {
        [count(v, "requests"), bytes(v, "in"), bytes(v, "out"), count(v, "outstanding"), count(v, "watches")]
    };
    const USED: [&str; 5] = ["requests", "from it", "to it", "waiting", "watches"];
    let mut clients = Table::new(["address", "clients"].into_iter().chain(USED));
    for c in rows("clients") {
        clients.row([text(c, "address"), count(c, "connections")].into_iter().chain(used(c)));
    }
    let mut sessions = Table::new(["session", "address"].into_iter().chain(USED));
    for s in rows("top_sessions") {
        sessions.row([text(s, "session"), text(s, "address")].into_iter().chain(used(s)));
    }
    format!("{}\n{}\n{}", paths.text(), clients.text(), sessions.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_stand_in_three_tables() {
        let used = |name: &str, n: u64| {
            serde_json::json!({
                "name": name, "session": name, "address": name, "connections": 1, "requests": n, "reads": n, "writes": 0,
                "bytes": 2048, "in": 10, "out": 20, "outstanding": 3, "watches": null,
            })
        };
        let live = serde_json::json!({
            "namespaces": [used("/a", 12_345), used("/b", 1)], "clients": [used("10.0.0.1", 7)], "top_sessions": [],
        });
        let text = tables(&live, 1);
        assert!(text.contains("/a") && !text.contains("/b") && text.contains("10.0.0.1"), "{text}");
        assert_eq!(text.lines().filter(|l| l.contains("waiting")).count(), 3, "{text}");
    }
}
