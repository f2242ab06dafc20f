//! Makes a failing run smaller: fewer faults, fewer clients, an earlier end, as long as it fails in the same way.

use crate::run::{Job, Outcome, run};

/// The same failure: the words before its details.
fn same(a: &Outcome, b: &Outcome) -> bool {
    match (&a.violation, &b.violation) {
        (Some(a), Some(b)) => a.what == b.what,
        _ => false,
    }
}

/// The smallest job found that fails as `job` does, within `tries` runs.
pub fn shrink(job: &Job, tries: usize) -> (Job, Outcome) {
    let mut best = job.clone();
    let mut found = run(&best);
    let mut left = tries;
    let mut attempt = |candidate: Job, best: &mut Job, found: &mut Outcome| -> bool {
        if left == 0 || candidate == *best {
            return false;
        }
        left -= 1;
        let outcome = run(&candidate);
        let fails = same(found, &outcome);
        if fails {
            *best = candidate;
            *found = outcome;
        }
        fails
    };
    // Faults, halves first, then one by one.
    let mut keep: Vec<usize> = best.keep.clone().unwrap_or_else(|| (0..found.plan.len()).collect());
    let mut size = keep.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < keep.len() {
            let mut fewer = keep.clone();
            fewer.drain(at..(at + size).min(keep.len()));
            if attempt(Job { keep: Some(fewer.clone()), ..best.clone() }, &mut best, &mut found) {
                keep = fewer;
            } else {
                at += size;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    for clients in 1..found.clients {
        if attempt(Job { clients: Some(clients), ..best.clone() }, &mut best, &mut found) {
            break;
        }
    }
    let (mut low, mut high) = (0, found.until_ms);
    while high - low > 50 {
        let middle = low + (high - low) / 2;
        if attempt(Job { until_ms: Some(middle), ..best.clone() }, &mut best, &mut found) {
            high = middle;
        } else {
            low = middle;
        }
    }
    (best, found)
}

/// The command that replays a job.
pub fn command(job: &Job) -> String {
    let mut text = format!("cargo run --release -p sim -- --seed {}", job.seed);
    if let Some(n) = job.voters {
        text.push_str(&format!(" --voters {n}"));
    }
    if let Some(n) = job.clients {
        text.push_str(&format!(" --clients {n}"));
    }
    if let Some(keep) = &job.keep {
        let list: Vec<String> = keep.iter().map(usize::to_string).collect();
        text.push_str(&format!(" --faults {}", if list.is_empty() { "none".into() } else { list.join(",") }));
    }
    if let Some(ms) = job.until_ms {
        text.push_str(&format!(" --until-ms {ms}"));
    }
    text.push_str(" --tell");
    text
}
